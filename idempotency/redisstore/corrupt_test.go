package redisstore_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/storetest/services"
	"github.com/redis/rueidis"
)

// An incomplete record is neither completed nor taken over, even after its
// lease has expired.
func TestCorruptRecordIsNeitherCompletedNorTakenOver(t *testing.T) {
	t.Parallel()
	c := newClient(t, rueidis.ClientOption{InitAddress: []string{services.Redis(t).Addr}})
	s := newStore(t, c)
	for name, spoil := range map[string]func(string) string{
		"cut off":           func(r string) string { return r[:len(r)-1] },
		"with a wild fence": func(r string) string { return r[:1] + strings.Repeat("x", 7) + r[8:] },
		"without a fence":   func(r string) string { return r[:1] + strings.Repeat("\x00", 7) + r[8:] },
		"with a huge fence": func(r string) string { return r[:1] + "\x20" + strings.Repeat("\x00", 5) + "\x01" + r[8:] },
		"of no state":       func(r string) string { return "X" + r[1:] },
		"text":              func(string) string { return "text" },
		"empty":             func(string) string { return "" },
	} {
		claim := idempotency.Claim{ID: idempotency.NewID("", "", idempotency.Key(name)), Owner: "a", Lease: time.Minute, Fingerprint: idempotency.Fingerprint{Schema: "s", Sum: [32]byte{1}}}
		lease, key := pendingKey(t, s, c, claim)
		record := get(t, c, key)
		// The time to live that is left is less than the time for which a record is
		// kept after its lease: the lease has expired.
		setForAMinute(t, c, key, spoil(record))
		if err := s.Complete(t.Context(), lease, []byte("outcome"), time.Hour); !errors.Is(err, idempotency.ErrLeaseLost) {
			t.Errorf("%s: completed with %v", name, err)
		}
		claim.Owner = "b"
		for range 2 {
			if b, err := s.Begin(t.Context(), claim); !errors.Is(err, idempotency.ErrCorrupt) {
				t.Errorf("%s: got %v, %v", name, b.State, err)
			}
			claim.Fingerprint = idempotency.Fingerprint{Schema: "s", Sum: [32]byte{2}}
		}
	}
}

// A done record is never run again, however much of it is cut off.
func TestTruncatedDoneRecordIsNotRunAgain(t *testing.T) {
	t.Parallel()
	c := newClient(t, rueidis.ClientOption{InitAddress: []string{services.Redis(t).Addr}})
	s := newStore(t, c)
	claim := idempotency.Claim{ID: idempotency.NewID("", "", "k"), Owner: "a", Lease: time.Minute}
	lease, key := pendingKey(t, s, c, claim)
	if err := s.Complete(t.Context(), lease, []byte("outcome"), time.Minute); err != nil {
		t.Fatal(err)
	}
	record := get(t, c, key)
	ask := func(n int) {
		for _, claim.Owner = range []string{"a", "b"} {
			b, err := s.Begin(t.Context(), claim)
			if err == nil && (b.State != idempotency.Replay || !strings.HasPrefix("outcome", string(b.Outcome))) || err != nil && !errors.Is(err, idempotency.ErrCorrupt) {
				t.Errorf("the first %d bytes of %d: %s is told %v %q, %v", n, len(record), claim.Owner, b.State, b.Outcome, err)
			}
		}
	}
	for n := range len(record) {
		setForAMinute(t, c, key, record[:n])
		ask(n)
		_ = s.Complete(t.Context(), lease, []byte("another"), time.Hour)
		ask(n)
	}
}

// Whichever of its bytes is changed, a done record is neither run again nor
// taken for a record that another owner has completed.
func TestDoneRecordWithAChangedByteIsNotRunAgain(t *testing.T) {
	t.Parallel()
	c := newClient(t, rueidis.ClientOption{InitAddress: []string{services.Redis(t).Addr}})
	s := newStore(t, c)
	claim := idempotency.Claim{ID: idempotency.NewID("", "", "k"), Owner: "a", Lease: time.Minute, Fingerprint: idempotency.Fingerprint{Schema: "s", Sum: [32]byte{1}}}
	lease, key := pendingKey(t, s, c, claim)
	const ownerAt, fingerprintAt, sumAt, methodAt = 8, 20, 28, 68
	begin := get(t, c, key)[:fingerprintAt]
	if err := s.Complete(t.Context(), lease, []byte("outcome"), time.Minute); err != nil {
		t.Fatal(err)
	}
	record := get(t, c, key)
	for at := range methodAt {
		for _, b := range []byte{0, 1, 2, 0x20, 0xff} {
			spoilt := record[:at] + string([]byte{b}) + record[at+1:]
			if spoilt == record {
				continue
			}
			setForAMinute(t, c, key, spoilt)
			for _, claim.Owner = range []string{"a", "b"} {
				result, err := s.Begin(t.Context(), claim)
				switch {
				case errors.Is(err, idempotency.ErrCorrupt):
				case err == nil && result.State == idempotency.Replay && at >= 1, err == nil && result.State == idempotency.Reused && at >= sumAt:
				default:
					t.Errorf("byte %d is %#x: %s is told %v, %v", at, b, claim.Owner, result.State, err)
				}
			}
			err := s.Complete(t.Context(), lease, []byte("another"), time.Minute)
			if mine := at >= fingerprintAt; mine != (err == nil) || err != nil && !errors.Is(err, idempotency.ErrLeaseLost) {
				t.Errorf("byte %d is %#x: completed again with %v", at, b, err)
			}
			if get(t, c, key) != spoilt {
				t.Errorf("byte %d is %#x: it was written to", at, b)
			}
		}
	}
	// A record does not belong to an owner because it contains the owner's bytes at another place.
	for _, spoilt := range []string{
		"D" + strings.Repeat("\x01", methodAt+1) + begin,
		"P" + begin + strings.Repeat("\x01", methodAt-len(begin)) + "\x00",
		"D" + begin + strings.Repeat("\x01", methodAt-len(begin)) + "\x00",
	} {
		setForAMinute(t, c, key, spoilt)
		if err := s.Complete(t.Context(), lease, []byte("another"), time.Minute); !errors.Is(err, idempotency.ErrLeaseLost) {
			t.Errorf("%q: completed with %v", spoilt, err)
		}
	}
}

// Fences grow even if the server's clock was set back.
func TestFencesGrowThoughTheClockIsSetBack(t *testing.T) {
	t.Parallel()
	c := newClient(t, rueidis.ClientOption{InitAddress: []string{services.Redis(t).Addr}})
	s := newStore(t, c)
	claim := idempotency.Claim{ID: idempotency.NewID("", "", "k"), Owner: "a", Lease: time.Minute}
	lease, key := pendingKey(t, s, c, claim)
	if err := s.Release(t.Context(), lease, true, time.Hour); err != nil {
		t.Fatal(err)
	}
	const later = "\x10\x00\x00\x00\x00\x00\x00" // than any clock in this century
	record := get(t, c, key)
	setForAMinute(t, c, key, record[:1]+later+record[8:])
	claim.Owner = "b"
	if b, err := s.Begin(t.Context(), claim); err != nil || b.State != idempotency.Run || b.Fence != 1<<52+1 {
		t.Errorf("told %v with fence %d, %v", b.State, b.Fence, err)
	}
}
