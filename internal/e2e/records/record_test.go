package records_test

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"pgregory.net/rapid"
)

// modelRecord is a second, naive account of one record: it follows from the history of runs what
// a store promises. Nothing in it depends on how StoredRecord represents a state.
type modelRecord struct {
	record idempotency.StoredRecord
	now    time.Duration

	runs        []idempotency.Lease // all that were granted, in order of their fences
	state       idempotency.RecordState
	fingerprint idempotency.Fingerprint
	ends, keep  time.Duration // of the lease or the retention, and how long a record is kept after it
	effect      bool          // of an earlier run
	data        string        // the outcome or the checkpoint
	attempts    int           // since nothing was remembered
}

// drop deletes the record if its time has ended, as a store does.
func (m *modelRecord) drop() {
	if m.state != "" && m.now >= m.ends+m.keep {
		m.forget()
		m.record = idempotency.StoredRecord{}
	}
}

func (m *modelRecord) forget() {
	m.state, m.effect, m.data, m.attempts = "", false, "", 0
	m.fingerprint = idempotency.Fingerprint{}
}

// owner returns the last run, or a lease of nobody.
func (m *modelRecord) owner() idempotency.Lease {
	if len(m.runs) == 0 {
		return idempotency.Lease{}
	}
	return m.runs[len(m.runs)-1]
}

// looked returns what somebody is told who owns nothing.
func (m *modelRecord) looked(f idempotency.Fingerprint) idempotency.BeginResult {
	switch {
	case m.state == "":
		return idempotency.BeginResult{State: idempotency.Absent}
	case f.Differs(m.fingerprint):
		return idempotency.BeginResult{State: idempotency.Reused}
	case m.state == idempotency.Done:
		return idempotency.BeginResult{State: idempotency.Replay, Outcome: []byte(m.data)}
	case m.state == idempotency.Pending && m.now < m.ends:
		return idempotency.BeginResult{State: idempotency.Join}
	default:
		return idempotency.BeginResult{State: idempotency.Absent, TakenOver: true}
	}
}

func (m *modelRecord) ran() idempotency.BeginResult {
	b := idempotency.BeginResult{State: idempotency.Run, Fence: m.owner().Fence, TakenOver: m.effect}
	if m.data != "" {
		b.Checkpoint = []byte(m.data)
	}
	return b
}

func sameResult(a, b idempotency.BeginResult) bool {
	return a.State == b.State && a.Fence == b.Fence && a.TakenOver == b.TakenOver &&
		string(a.Checkpoint) == string(b.Checkpoint) && string(a.Outcome) == string(b.Outcome)
}

var (
	drawOwner       = rapid.SampledFrom([]string{"a", "b", "c"})
	drawData        = rapid.SampledFrom([]string{"x", "y"})
	drawDuration    = rapid.SampledFrom([]time.Duration{-time.Second, 0, time.Second, time.Minute, time.Hour, 3 * time.Hour})
	drawFingerprint = rapid.SampledFrom([]idempotency.Fingerprint{
		{}, {Schema: "s", Sum: [32]byte{1}}, {Schema: "s", Sum: [32]byte{2}}, {Schema: "t", Sum: [32]byte{1}},
	})
)

// begin claims the write, as a store does: it asks, and claims if the answer is Absent.
func (m *modelRecord) begin(t *rapid.T) {
	claim := &idempotency.Claim{
		Owner: drawOwner.Draw(t, "owner"), Fingerprint: drawFingerprint.Draw(t, "fingerprint"),
		Lease: max(1, drawDuration.Draw(t, "lease")), Retention: drawDuration.Draw(t, "retention"),
	}
	want := m.looked(claim.Fingerprint)
	again := m.state == idempotency.Pending && claim.Owner == m.owner().Owner && want.State != idempotency.Reused
	if again {
		want = m.ran()
	}
	before := m.record
	if got := m.record.Ask(claim, m.now); !sameResult(got, want) || !reflect.DeepEqual(m.record, before) {
		t.Fatalf("Ask: %+v, want %+v", got, want)
	}
	fence := m.owner().Fence + uint64(rapid.IntRange(1, 3).Draw(t, "fence"))
	if want.State == idempotency.Absent {
		m.state, m.fingerprint, m.effect = idempotency.Pending, claim.Fingerprint, want.TakenOver
		m.ends, m.keep = m.now+claim.Lease, max(claim.Retention, time.Hour)
		m.runs = append(m.runs, idempotency.Lease{Owner: claim.Owner, Fence: fence})
		m.attempts++
		want = m.ran()
	}
	if got := m.record.Claim(claim, fence, m.now); !sameResult(got, want) {
		t.Fatalf("Claim: %+v, want %+v", got, want)
	}
}

// lease draws a lease, which is often that of the last run.
func (m *modelRecord) lease(t *rapid.T) (lease idempotency.Lease, mine bool) {
	lease = m.owner()
	switch {
	case rapid.IntRange(0, 2).Draw(t, "whose") > 0:
	case rapid.Bool().Draw(t, "an earlier run's") && len(m.runs) > 0:
		lease = rapid.SampledFrom(m.runs).Draw(t, "run")
	default:
		lease = idempotency.Lease{Owner: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "owner"), Fence: rapid.Uint64Range(0, 9).Draw(t, "fence")}
	}
	return lease, lease == m.owner() && (m.state == idempotency.Pending || m.state == idempotency.Done)
}

// took fails the test unless a step was taken or refused as wanted. A step that is refused
// changes nothing.
func (m *modelRecord) took(t *rapid.T, step string, before idempotency.StoredRecord, err error, want bool) {
	if want != (err == nil) || err != nil && !errors.Is(err, idempotency.ErrLeaseLost) {
		t.Fatalf("%s: %v, want it taken: %v", step, err, want)
	}
	if err != nil && !reflect.DeepEqual(m.record, before) {
		t.Fatalf("%s was refused, and has changed %+v into %+v", step, before, m.record)
	}
}

func (m *modelRecord) extend(t *rapid.T) {
	before, d := m.record, drawDuration.Draw(t, "lease")
	lease, mine := m.lease(t)
	mine = mine && m.state == idempotency.Pending
	m.took(t, "Extend", before, m.record.Extend(lease, d, m.now), mine)
	if mine {
		m.ends = max(m.ends, m.now+max(0, d))
	}
}

func (m *modelRecord) save(t *rapid.T) {
	before, data := m.record, drawData.Draw(t, "checkpoint")
	lease, mine := m.lease(t)
	mine = mine && m.state == idempotency.Pending
	m.took(t, "Save", before, m.record.Save(lease, []byte(data)), mine)
	if mine {
		m.data = data
	}
}

func (m *modelRecord) complete(t *rapid.T) {
	before, data, retention := m.record, drawData.Draw(t, "outcome"), drawDuration.Draw(t, "retention")
	lease, mine := m.lease(t)
	m.took(t, "Complete", before, m.record.Complete(lease, []byte(data), retention, m.now), mine)
	if mine && m.state == idempotency.Pending {
		m.state, m.effect, m.data = idempotency.Done, false, data
		m.ends, m.keep = m.now+max(0, retention), 0
		m.drop()
	}
}

func (m *modelRecord) release(t *rapid.T) {
	before, effect, retention := m.record, rapid.Bool().Draw(t, "effect"), drawDuration.Draw(t, "retention")
	lease, mine := m.lease(t)
	gone := m.state == "" || m.state == idempotency.Released
	mine = mine && m.state == idempotency.Pending
	m.took(t, "Release", before, m.record.Release(lease, effect, retention, m.now), mine || gone)
	switch {
	case mine && (effect || m.effect):
		m.state, m.effect, m.ends, m.keep = idempotency.Released, true, m.now, max(m.keep, retention)
	case mine:
		m.forget()
	}
}

// operate finds the record, lets time pass or an owner extend its lease, and then frees or
// deletes the record.
func (m *modelRecord) operate(t *rapid.T) {
	found := m.record.Inspect(idempotency.ID{1}, m.now)
	if (found == nil) != (m.state == "") {
		t.Fatalf("found %+v in state %q", found, m.state)
	}
	if found == nil {
		return
	}
	if found.State != m.state || found.Fence != m.owner().Fence || found.Attempts != m.attempts ||
		found.TakenOver != (m.effect || m.state == idempotency.Pending && m.ends <= m.now) || string(found.Checkpoint)+string(found.Outcome) != m.data {
		t.Fatalf("found %+v, want %+v", found, m)
	}
	expired := m.state == idempotency.Pending && m.ends <= m.now
	if rapid.Bool().Draw(t, "extended meanwhile") {
		m.extend(t)
	}
	unchanged := !expired || m.ends <= m.now
	before := m.record
	if rapid.Bool().Draw(t, "free") {
		unchanged = unchanged && m.state == idempotency.Pending
		m.took(t, "Free", before, m.record.Free(found, m.now), unchanged)
		if unchanged {
			m.state, m.effect, m.ends = idempotency.Released, true, m.now
		}
		return
	}
	m.took(t, "Forget", before, m.record.Forget(found, m.now), unchanged)
	if unchanged {
		m.forget()
	}
}

// check compares what can be read of the record.
func (m *modelRecord) check(t *rapid.T) {
	f := drawFingerprint.Draw(t, "looking with")
	if got, want := m.record.Look(f, m.now), m.looked(f); !sameResult(got, want) {
		t.Fatalf("Look: %+v, want %+v", got, want)
	}
	if left := m.record.Left(m.now); left > 0 != (m.looked(m.fingerprint).State == idempotency.Join) || left > 0 && left != m.ends-m.now {
		t.Fatalf("%v are left in state %q", left, m.state)
	}
	if m.state != "" && (m.record.State() != m.state || m.record.End() != m.ends+m.keep) {
		t.Fatalf("%q until %v, want %q until %v", m.record.State(), m.record.End(), m.state, m.ends+m.keep)
	}
	if m.record.Done && m.record.Keep != 0 { // a database can compute the end of any record as Until + Keep
		t.Fatalf("a done record is kept for %v after its retention", m.record.Keep)
	}
	if m.record.State() == "" && !reflect.DeepEqual(m.record, idempotency.StoredRecord{}) {
		t.Fatalf("an absent record that is not empty: %+v", m.record)
	}
}

func TestStoredRecordFollowsItsModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := &modelRecord{now: drawDuration.Draw(t, "start")}
		m.now = max(0, m.now)
		t.Repeat(map[string]func(*rapid.T){
			"": m.check,
			"time passes": func(t *rapid.T) {
				m.now += max(0, drawDuration.Draw(t, "by"))
				m.drop()
			},
			"begin": m.begin, "extend": m.extend, "save": m.save, "complete": m.complete, "release": m.release, "operate": m.operate,
		})
	})
}

// A store may delete a record long after its End. Until then a claim finds nothing in it.
func TestRecordPastItsEndIsClaimedAsNew(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(r *idempotency.StoredRecord, l idempotency.Lease) error{
		"done": func(r *idempotency.StoredRecord, l idempotency.Lease) error {
			return r.Complete(l, []byte("outcome"), time.Minute, 0)
		},
		"released": func(r *idempotency.StoredRecord, l idempotency.Lease) error { return r.Release(l, true, 0, 0) },
		"pending":  func(r *idempotency.StoredRecord, l idempotency.Lease) error { return r.Save(l, []byte("checkpoint")) },
	} {
		var r idempotency.StoredRecord
		claim := &idempotency.Claim{Owner: "a", Lease: time.Minute, Fingerprint: idempotency.Fingerprint{Schema: "s"}}
		b := r.Claim(claim, 1, 0)
		if err := end(&r, idempotency.Lease{Owner: "a", Fence: b.Fence}); err != nil {
			t.Fatal(err)
		}
		other := &idempotency.Claim{Owner: "b", Lease: time.Minute, Fingerprint: idempotency.Fingerprint{Schema: "s", Sum: [32]byte{1}}}
		now := r.End()
		if found := r.Inspect(idempotency.ID{}, now); found != nil {
			t.Errorf("%s: found %+v", name, found)
		}
		if b := r.Claim(other, 2, now); b.State != idempotency.Run || b.TakenOver || b.Fence != 2 || b.Checkpoint != nil || r.Attempts != 1 || r.Created != now {
			t.Errorf("%s: told %+v, record %+v", name, b, r)
		}
	}
}
