package idempotency

import "time"

// StoredRecord is the record of one write as a store keeps it, with a method for each step of
// [Store]. It is for authors of stores that run Go code between reading a record and writing it.
// [Memory] and the stores in package boltstore and package sqlitestore use it.
//
// The fields say which state the record is in, and [StoredRecord.State] names it:
//
//	absent    the zero value, or a record whose End has passed
//	pending   it has an Owner and is not Done; the lease ends at Until
//	released  it has no Owner and is not Done; Effect is true, because a release without a
//	          possible effect makes the record absent
//	done      Done is true; Data is the outcome, and its retention ends at Until
//
// The comment of [Store] has the transitions. A step that fails leaves the record as it was. A
// step that its owner repeats has the result of the first time.
//
// The methods are pure: they read no clock and do no I/O. Each takes the store's time as a duration since
// a moment of the store's choice. All processes that share a store use the same moment, such as the
// beginning of 1970. Longer leases and retentions than 70 years are shortened to 70 years. A StoredRecord
// is not safe for concurrent use: reading a record, taking a step and writing the record back is one
// transaction of the store.
type StoredRecord struct {
	Done        bool
	Effect      bool // an earlier run may have had an effect, and no outcome is stored
	Owner       string
	Fence       uint64
	Fingerprint Fingerprint

	Until time.Duration // the end of the lease or of the retention
	Keep  time.Duration // how long the record is kept after Until; 0 once it is done
	Data  []byte        // the outcome of a done record, and the last checkpoint of any other

	// For operators: when the first of the record's runs was claimed, how many were claimed,
	// and the method and the hash of the key from the last claim.
	Created         time.Duration
	Attempts        int
	Method, KeyHash string
}

// State returns the state of the record, or "" for the zero value. State does not consider the time: once
// its End has passed, a record is absent whatever State returns.
func (r *StoredRecord) State() RecordState {
	switch {
	case r.Done:
		return Done
	case r.Owner != "":
		return Pending
	case r.Fence != 0:
		return Released
	default:
		return ""
	}
}

// End returns when the record becomes absent. The store may delete it then.
func (r *StoredRecord) End() time.Duration {
	if r.Done {
		return r.Until
	}
	return r.Until + r.Keep
}

// Left returns for how much longer [Store.Wait] may wait for the record: until the end of the
// lease of a pending record. It is not positive if there is nothing to wait for.
func (r *StoredRecord) Left(now time.Duration) time.Duration {
	if r.State() != Pending {
		return 0
	}
	return r.Until - now
}

// Look returns the result of [Store.Look].
func (r *StoredRecord) Look(fingerprint Fingerprint, now time.Duration) BeginResult {
	switch {
	case r.End() <= now:
		return BeginResult{State: Absent}
	case fingerprint.Differs(r.Fingerprint):
		return BeginResult{State: Reused}
	case r.Done:
		return BeginResult{State: Replay, Outcome: r.Data}
	case r.Left(now) > 0:
		return BeginResult{State: Join}
	default:
		return BeginResult{State: Absent, TakenOver: true}
	}
}

// Ask returns the result that [Store.Begin] would have, without claiming the write. If the write can be
// claimed, the state is Absent; a store then draws a fence and calls Claim.
func (r *StoredRecord) Ask(claim *Claim, now time.Duration) BeginResult {
	if r.Owner == claim.Owner && r.State() == Pending && r.End() > now && !claim.Fingerprint.Differs(r.Fingerprint) {
		return r.run() // the owner repeats its claim after a lost answer
	}
	return r.Look(claim.Fingerprint, now)
}

// Claim takes the step [Store.Begin]. The fence must be higher than all that the store has used
// for the ID, and not 0. If Ask returns Absent, the record becomes pending under this fence and the result
// is Run. Otherwise the record does not change, and the result is that of Ask.
func (r *StoredRecord) Claim(claim *Claim, fence uint64, now time.Duration) BeginResult {
	asked := r.Ask(claim, now)
	if asked.State != Absent {
		return asked
	}
	if !asked.TakenOver { // nothing of an earlier run is remembered
		*r = StoredRecord{Created: now}
	}
	r.Done, r.Effect = false, asked.TakenOver
	r.Owner, r.Fence, r.Fingerprint = claim.Owner, fence, claim.Fingerprint
	r.Until, r.Keep = now+bounded(claim.Lease), bounded(claim.KeepFor())
	r.Method, r.KeyHash = claim.Method, claim.KeyHash
	r.Attempts++
	return r.run()
}

// run returns the result of a claim to the owner of the record.
func (r *StoredRecord) run() BeginResult {
	return BeginResult{State: Run, Fence: r.Fence, TakenOver: r.Effect, Checkpoint: r.Data}
}

// owns reports whether the lease is the last that was granted for the record and was not
// released.
func (r *StoredRecord) owns(lease *Lease) bool {
	return r.Owner != "" && r.Owner == lease.Owner && r.Fence == lease.Fence
}

// Extend takes the step [Store.Extend].
func (r *StoredRecord) Extend(lease Lease, d, now time.Duration) error {
	if !r.owns(&lease) || r.Done {
		return ErrLeaseLost
	}
	r.Until = max(r.Until, now+bounded(d))
	return nil
}

// Save takes the step [Store.Save].
func (r *StoredRecord) Save(lease Lease, checkpoint []byte) error {
	if !r.owns(&lease) || r.Done {
		return ErrLeaseLost
	}
	r.Data = checkpoint
	return nil
}

// Complete takes the step [Store.Complete].
func (r *StoredRecord) Complete(lease Lease, outcome []byte, retention, now time.Duration) error {
	switch {
	case !r.owns(&lease):
		return ErrLeaseLost
	case r.Done: // the owner repeats the step after a lost answer
		return nil
	}
	r.Done, r.Effect, r.Data = true, false, outcome
	r.Until, r.Keep = now+bounded(retention), 0
	return nil
}

// Release takes the step [Store.Release]. The record becomes the zero value unless a run may
// have had an effect.
func (r *StoredRecord) Release(lease Lease, effect bool, retention, now time.Duration) error {
	switch {
	case r.State() == "", r.State() == Released:
		return nil
	case !r.owns(&lease) || r.Done:
		return ErrLeaseLost
	case !effect && !r.Effect:
		*r = StoredRecord{}
		return nil
	}
	r.Owner, r.Effect = "", true
	r.Until, r.Keep = now, max(r.Keep, bounded(retention))
	return nil
}

// Inspect returns the record as [Inspector] does, or nil if it is absent.
func (r *StoredRecord) Inspect(id ID, now time.Duration) *Record {
	if r.End() <= now {
		return nil
	}
	found := &Record{
		ID: id, State: r.State(), Method: r.Method, KeyHash: r.KeyHash,
		Owner: r.Owner, Fence: r.Fence, Attempts: r.Attempts, Age: now - r.Created, Left: r.Until - now,
	}
	switch found.State {
	case Done:
		found.Outcome = r.Data
	case Released:
		found.TakenOver, found.Checkpoint, found.Left = true, r.Data, r.End()-now
	default:
		found.TakenOver, found.Checkpoint = r.Effect || r.Until <= now, r.Data
	}
	return found
}

// Free takes the step [Inspector.Free] for a record that was found.
func (r *StoredRecord) Free(found *Record, now time.Duration) error {
	if r.State() != Pending || r.changedSince(found, now) {
		return ErrLeaseLost
	}
	return r.Release(Lease{Owner: r.Owner, Fence: r.Fence}, true, 0, now)
}

// Forget takes the step [Inspector.Forget] for a record that was found. The record becomes the
// zero value.
func (r *StoredRecord) Forget(found *Record, now time.Duration) error {
	if r.changedSince(found, now) {
		return ErrLeaseLost
	}
	*r = StoredRecord{}
	return nil
}

// changedSince reports whether the record has changed since it was found, or its lease had
// expired then and its owner has extended it.
func (r *StoredRecord) changedSince(found *Record, now time.Duration) bool {
	extended := found.State == Pending && found.Left <= 0 && r.Until > now
	return r.State() == "" || r.Owner != found.Owner || r.Fence != found.Fence || r.Done != (found.State == Done) || extended
}

// bounded limits a duration, so that adding it to a time cannot overflow.
func bounded(d time.Duration) time.Duration {
	const longest = 70 * 365 * 24 * time.Hour
	return max(0, min(d, longest))
}
