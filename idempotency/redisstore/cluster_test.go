package redisstore_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/redisstore"
	"github.com/redis/rueidis"
)

const slots = 16384

// slot returns the slot that a Cluster keeps a key in: CRC-16 (XMODEM) of it.
func slot(key string) int {
	var crc uint16
	for _, b := range []byte(key) {
		crc ^= uint16(b) << 8
		for range 8 {
			carry := crc&0x8000 != 0
			crc <<= 1
			if carry {
				crc ^= 0x1021
			}
		}
	}
	return int(crc % slots)
}

// movingSlot is a slot of a cluster that a test moves from one server to another.
type movingSlot struct {
	*testing.T
	slot     int
	from, to rueidis.Client
	fromID   string
	toID     string
	toAddr   string
	all      []rueidis.Client
	store    *redisstore.Store
	next     int // of the IDs that were tried
}

func newMovingSlot(t *testing.T) *movingSlot {
	t.Helper()
	m := &movingSlot{T: t, slot: 42} // the first server has the first third of them
	addrs := newCluster(t)
	for _, addr := range addrs {
		m.all = append(m.all, newClient(t, rueidis.ClientOption{InitAddress: []string{addr}, ForceSingleClient: true}))
	}
	m.from, m.to, m.toAddr = m.all[0], m.all[1], addrs[1]
	m.fromID, m.toID = m.do(m.from, "CLUSTER", "MYID"), m.do(m.to, "CLUSTER", "MYID")
	m.store = newStore(t, newClient(t, rueidis.ClientOption{InitAddress: addrs}))
	return m
}

func (m *movingSlot) do(c rueidis.Client, args ...string) string {
	m.Helper()
	text, err := c.Do(m.Context(), c.B().Arbitrary(args...).Build()).ToString()
	if err != nil {
		m.Fatalf("%v: %v", args, err)
	}
	return text
}

// claim returns a claim of a new ID whose record is in the slot.
func (m *movingSlot) claim() idempotency.Claim {
	for {
		m.next++
		id := idempotency.NewID("", "", idempotency.Key(strconv.Itoa(m.next)))
		if slot("hopbound:"+id.String()) == m.slot {
			return idempotency.Claim{ID: id, Owner: "a", Lease: time.Minute}
		}
	}
}

// run claims a write and expects to be told to run it.
func (m *movingSlot) run(claim idempotency.Claim) idempotency.Lease {
	m.Helper()
	b, err := m.store.Begin(m.Context(), claim)
	if err != nil || b.State != idempotency.Run {
		m.Fatalf("told %v, %v", b.State, err)
	}
	return idempotency.Lease{ID: claim.ID, Owner: claim.Owner, Fence: b.Fence}
}

// finish takes all steps of an owner, and then the outcome is replayed.
func (m *movingSlot) finish(claim idempotency.Claim, lease idempotency.Lease) {
	m.Helper()
	other := claim
	other.Owner = "b"
	if b, err := m.store.Begin(m.Context(), other); err != nil || b.State != idempotency.Join {
		m.Errorf("told %v, %v", b.State, err)
	}
	for _, err := range []error{
		m.store.Extend(m.Context(), lease, time.Hour),
		m.store.Save(m.Context(), lease, []byte("checkpoint")),
		m.store.Complete(m.Context(), lease, []byte("outcome"), time.Hour),
	} {
		if err != nil {
			m.Error(err)
		}
	}
	if b, err := m.store.Begin(m.Context(), other); err != nil || b.State != idempotency.Replay {
		m.Errorf("told %v, %v", b.State, err)
	}
	if b, err := m.store.Look(m.Context(), other); err != nil || b.State != idempotency.Replay {
		m.Errorf("looking told %v, %v", b.State, err)
	}
}

// While a slot is moved, some of its records are on one server and some on the other.
func TestEachStepWorksWhileASlotIsMoved(t *testing.T) {
	t.Parallel()
	m := newMovingSlot(t)
	stays, moves, restarts := m.claim(), m.claim(), m.claim()
	staying, moving := m.run(stays), m.run(moves)
	slot := strconv.Itoa(m.slot)
	m.do(m.to, "CLUSTER", "SETSLOT", slot, "IMPORTING", m.fromID)
	m.do(m.from, "CLUSTER", "SETSLOT", slot, "MIGRATING", m.toID)
	host, port, _ := strings.Cut(m.toAddr, ":")
	m.do(m.from, "MIGRATE", host, port, "hopbound:"+moves.ID.String(), "0", "5000")
	for range 20 {
		made := m.claim()
		m.finish(made, m.run(made))
	}
	if err := m.store.Release(t.Context(), m.run(restarts), false, time.Hour); err != nil {
		t.Error(err)
	}
	restarting := m.run(restarts)
	m.finish(stays, staying)
	m.finish(moves, moving)
	m.do(m.from, "MIGRATE", host, port, "hopbound:"+stays.ID.String(), "0", "5000")
	for _, c := range []rueidis.Client{m.to, m.from, m.all[2]} {
		m.do(c, "CLUSTER", "SETSLOT", slot, "NODE", m.toID)
	}
	m.finish(restarts, restarting)
	made := m.claim()
	m.finish(made, m.run(made))
}

// A claim waits for a cluster that has no server for a slot, for as long as its context lasts.
func TestClaimWaitsForAClusterThatIsDown(t *testing.T) {
	t.Parallel()
	m := newMovingSlot(t)
	slot := strconv.Itoa(m.slot)
	m.do(m.from, "CLUSTER", "DELSLOTS", slot)
	probe := m.claim()
	err := m.from.Do(t.Context(), m.from.B().Get().Key("hopbound:"+probe.ID.String()).Build()).Error()
	if err == nil || !strings.HasPrefix(err.Error(), "CLUSTERDOWN") {
		t.Fatalf("the cluster is not down: %v", err)
	}
	told := make(chan error, 1)
	go func() {
		b, err := m.store.Begin(t.Context(), probe)
		if err == nil && b.State != idempotency.Run {
			err = fmt.Errorf("told %v", b.State)
		}
		told <- err
	}()
	select {
	case err := <-told:
		t.Fatalf("the claim was told %v while the cluster was down", err)
	case <-time.After(200 * time.Millisecond):
	}
	m.do(m.from, "CLUSTER", "ADDSLOTS", slot)
	if err := <-told; err != nil {
		t.Error(err)
	}
}
