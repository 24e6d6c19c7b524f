package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/redisstore"
	"github.com/hopbound/hopbound/idempotency/storetest"
	"github.com/hopbound/hopbound/idempotency/storetest/services"
	"github.com/redis/rueidis"
)

// await waits until a condition is true, because servers need a while to agree.
func await(t testing.TB, what string, is func() bool) {
	t.Helper()
	for range 1200 {
		if is() {
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatalf("%s: it has not come to that", what)
}

// newCluster runs a cluster of three servers.
func newCluster(t *testing.T) []string {
	t.Helper()
	var addrs []string
	var clients []rueidis.Client
	for range 3 {
		s := services.Redis(t, "--cluster-enabled", "yes")
		addrs = append(addrs, s.Addr)
		clients = append(clients, newClient(t, rueidis.ClientOption{InitAddress: []string{s.Addr}, ForceSingleClient: true}))
	}
	do := func(c rueidis.Client, args ...string) string {
		text, err := c.Do(t.Context(), c.B().Arbitrary(args...).Build()).ToString()
		if err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		return text
	}
	for i, c := range clients {
		host, port, _ := strings.Cut(addrs[0], ":")
		do(c, "CLUSTER", "MEET", host, port)
		do(c, "CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(i*slots/3), strconv.Itoa((i+1)*slots/3-1))
	}
	await(t, "a cluster that is up", func() bool {
		for _, c := range clients {
			info := do(c, "CLUSTER", "INFO")
			if !strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, "cluster_known_nodes:3") {
				return false
			}
		}
		return true
	})
	return addrs
}

func TestStoreInACluster(t *testing.T) {
	t.Parallel()
	storetest.Run(t, backend(t, rueidis.ClientOption{InitAddress: newCluster(t)}))
}

// Behind Sentinel, the store continues after a failover. Records that were written long before
// are still there.
func TestStoreBehindSentinelSurvivesAFailover(t *testing.T) {
	t.Parallel()
	master := services.Redis(t)
	host, port, _ := strings.Cut(master.Addr, ":")
	replica := services.Redis(t, "--replicaof", host+" "+port)
	sentinel := services.Sentinel(t, "shop", master.Addr)
	direct := newClient(t, rueidis.ClientOption{InitAddress: []string{replica.Addr}, ForceSingleClient: true})
	replication := func() string {
		text, err := direct.Do(t.Context(), direct.B().Info().Section("replication").Build()).ToString()
		if err != nil {
			return err.Error()
		}
		return text
	}
	await(t, "a replica", func() bool { return strings.Contains(replication(), "master_link_status:up") })
	watcher := newClient(t, rueidis.ClientOption{InitAddress: []string{sentinel.Addr}, ForceSingleClient: true})
	await(t, "a sentinel that knows the replica", func() bool {
		text, err := watcher.Do(t.Context(), watcher.B().Arbitrary("SENTINEL", "REPLICAS", "shop").Build()).ToArray()
		return err == nil && len(text) == 1
	})
	store := newStore(t, newClient(t, rueidis.ClientOption{
		InitAddress: []string{sentinel.Addr}, Sentinel: rueidis.SentinelOption{MasterSet: "shop"},
	}))
	claim := idempotency.Claim{ID: idempotency.NewID("", "", "k"), Owner: "a", Lease: time.Minute}
	result, err := store.Begin(t.Context(), claim)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Complete(t.Context(), idempotency.Lease{ID: claim.ID, Owner: "a", Fence: result.Fence}, []byte("outcome"), time.Hour); err != nil {
		t.Fatal(err)
	}
	await(t, "a replica that has it all", func() bool {
		n, err := direct.Do(t.Context(), direct.B().Dbsize().Build()).AsInt64()
		return err == nil && n == 1
	})
	master.Kill()
	await(t, "a store that answers again", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		b, err := store.Begin(ctx, claim)
		if err != nil {
			return false
		}
		if b.State != idempotency.Replay || string(b.Outcome) != "outcome" {
			t.Errorf("got %v %q", b.State, b.Outcome)
		}
		return true
	})
}

func TestCheckFindsServersThatEvictOrRefuseSteps(t *testing.T) {
	t.Parallel()
	server := services.Redis(t, "--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru")
	s, err := redisstore.New(newClient(t, rueidis.ClientOption{InitAddress: []string{server.Addr}}))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Check(t.Context()); !errors.Is(err, redisstore.ErrEvicts) {
		t.Errorf("got %v", err)
	}
	admin := newClient(t, rueidis.ClientOption{InitAddress: []string{server.Addr}})
	for _, command := range []string{"set", "pexpire", "del"} {
		name := "without-" + command
		if err := admin.Do(t.Context(), admin.B().Arbitrary("ACL", "SETUSER", name, "on", ">secret", "~*", "&*", "+@all", "-"+command).Build()).Error(); err != nil {
			t.Fatal(err)
		}
		s := newStoreAs(t, newClient(t, rueidis.ClientOption{InitAddress: []string{server.Addr}, Username: name, Password: "secret"}))
		if err := s.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "can't run this command") {
			t.Errorf("a user that may not %s passes with %v", command, err)
		}
	}
	server.Kill()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := s.Check(ctx); err == nil {
		t.Error("a server that is gone passes")
	}
	if _, err := redisstore.New(nil, redisstore.WithPrefix("{x}")); err == nil {
		t.Error("no client, and a prefix with braces, are taken")
	}
}

// A server without free memory refuses new keys, and accepts steps of keys that it has. A
// record that another program has overwritten is corrupt, and its write does not run again.
func TestFullServerAndCorruptRecordsAreReported(t *testing.T) {
	t.Parallel()
	server := services.Redis(t)
	c := newClient(t, rueidis.ClientOption{InitAddress: []string{server.Addr}})
	s := newStore(t, c)
	claim := idempotency.Claim{ID: idempotency.NewID("", "", "k"), Owner: "a", Lease: time.Minute}
	if _, err := s.Begin(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
	keys, err := c.Do(t.Context(), c.B().Keys().Pattern("hopbound:*").Build()).AsStrSlice()
	if err != nil || len(keys) != 1 {
		t.Fatalf("keys %q, %v", keys, err)
	}
	key := keys[0]
	for _, spoil := range [][]string{{"SETRANGE", key, "1", "x"}, {"SET", key, "text"}, {"SET", key, ""}, {"DEL", key}, {"LPUSH", key, "text"}} {
		if err := c.Do(t.Context(), c.B().Arbitrary(spoil...).Build()).Error(); err != nil {
			t.Fatal(err)
		}
		claim.Owner += "b"
		if spoil[0] == "DEL" {
			continue
		}
		if b, err := s.Begin(t.Context(), claim); !errors.Is(err, idempotency.ErrCorrupt) {
			t.Errorf("%v: got %v, %v", spoil, b, err)
		}
	}
	failed, _ := pendingKey(t, s, c, idempotency.Claim{ID: idempotency.NewID("", "", "fails"), Owner: "a", Lease: time.Minute})
	before := idempotency.Claim{ID: idempotency.NewID("", "", "before"), Owner: "a", Lease: time.Minute}
	result, err := s.Begin(t.Context(), before)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Do(t.Context(), c.B().ConfigSet().ParameterValue().ParameterValue("maxmemory", "1").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	claim.ID = idempotency.NewID("", "", "new")
	if b, err := s.Begin(t.Context(), claim); !errors.Is(err, idempotency.ErrFull) {
		t.Errorf("got %v, %v", b, err)
	}
	lease := idempotency.Lease{ID: before.ID, Owner: "a", Fence: result.Fence}
	if err := s.Save(t.Context(), lease, []byte("checkpoint")); err != nil {
		t.Errorf("the checkpoint of what was claimed before: %v", err)
	}
	if err := s.Complete(t.Context(), lease, []byte("outcome"), time.Hour); err != nil {
		t.Errorf("the outcome of what was claimed before: %v", err)
	}
	if err := s.Release(t.Context(), failed, true, time.Hour); err != nil {
		t.Errorf("the release of what was claimed before: %v", err)
	}
}

// pendingKey claims a record, and returns its lease and its key in Redis.
func pendingKey(t *testing.T, s *redisstore.Store, c rueidis.Client, claim idempotency.Claim) (idempotency.Lease, string) {
	t.Helper()
	result, err := s.Begin(t.Context(), claim)
	if err != nil || result.State != idempotency.Run {
		t.Fatal(result, err)
	}
	keys, err := c.Do(t.Context(), c.B().Keys().Pattern("hopbound:"+claim.ID.String()).Build()).AsStrSlice()
	if err != nil || len(keys) != 1 {
		t.Fatalf("keys %q, %v", keys, err)
	}
	return idempotency.Lease{ID: claim.ID, Owner: claim.Owner, Fence: result.Fence}, keys[0]
}

func get(t *testing.T, c rueidis.Client, key string) string {
	t.Helper()
	value, err := c.Do(t.Context(), c.B().Get().Key(key).Build()).ToString()
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func setForAMinute(t *testing.T, c rueidis.Client, key, value string) {
	t.Helper()
	if err := c.Do(t.Context(), c.B().Set().Key(key).Value(value).PxMilliseconds(time.Minute.Milliseconds()).Build()).Error(); err != nil {
		t.Fatal(err)
	}
}

// The scripts get a hash of the owner, which may contain any bytes.
func TestOwnersHashMayHaveAnyBytes(t *testing.T) {
	t.Parallel()
	c := newClient(t, rueidis.ClientOption{InitAddress: []string{services.Redis(t).Addr}})
	s := newStore(t, c)
	for n := range 500 {
		name := strconv.Itoa(n)
		claim := idempotency.Claim{ID: idempotency.NewID("", "", idempotency.Key(name)), Owner: name, Lease: time.Minute}
		result, err := s.Begin(t.Context(), claim)
		if err != nil || result.State != idempotency.Run {
			t.Fatal(result, err)
		}
		lease := idempotency.Lease{ID: claim.ID, Owner: claim.Owner, Fence: result.Fence}
		for range 2 {
			if err := s.Complete(t.Context(), lease, []byte(name), time.Minute); err != nil {
				t.Errorf("owner %s: %v", name, err)
			}
		}
		lease.Owner = "x" + name
		if err := s.Complete(t.Context(), lease, nil, time.Minute); !errors.Is(err, idempotency.ErrLeaseLost) {
			t.Errorf("another than owner %s: %v", name, err)
		}
	}
}

// A server without free memory still replays the outcomes that it has.
func TestFullServerReplaysOutcomes(t *testing.T) {
	t.Parallel()
	c := newClient(t, rueidis.ClientOption{InitAddress: []string{services.Redis(t).Addr}})
	s := newStore(t, c)
	claim := idempotency.Claim{ID: idempotency.NewID("", "", "done"), Owner: "a", Lease: time.Minute}
	lease, _ := pendingKey(t, s, c, claim)
	if err := s.Complete(t.Context(), lease, []byte("outcome"), time.Hour); err != nil {
		t.Fatal(err)
	}
	pending := claim
	pending.ID = idempotency.NewID("", "", "pending")
	pendingKey(t, s, c, pending)
	abandoned := claim
	abandoned.ID, abandoned.Lease = idempotency.NewID("", "", "abandoned"), time.Millisecond
	pendingKey(t, s, c, abandoned)
	time.Sleep(10 * time.Millisecond)
	abandoned.Owner = "b"
	if err := c.Do(t.Context(), c.B().ConfigSet().ParameterValue().ParameterValue("maxmemory", "1").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	if b, err := s.Begin(t.Context(), pending); err != nil || b.State != idempotency.Run {
		t.Errorf("the owner asks again: %v, %v", b.State, err)
	}
	claim.Owner, pending.Owner = "b", "b"
	if b, err := s.Begin(t.Context(), abandoned); !errors.Is(err, idempotency.ErrFull) {
		t.Errorf("its lease has run out: %v, %v", b.State, err)
	}
	if b, err := s.Begin(t.Context(), claim); err != nil || b.State != idempotency.Replay || string(b.Outcome) != "outcome" {
		t.Errorf("done: %v, %v", b.State, err)
	}
	if b, err := s.Begin(t.Context(), pending); err != nil || b.State != idempotency.Join {
		t.Errorf("pending: %v, %v", b.State, err)
	}
}

// A pending record whose expiry an operator has removed is waited for, and not taken over.
func TestRecordWithoutExpiryIsNotTakenOver(t *testing.T) {
	t.Parallel()
	c := newClient(t, rueidis.ClientOption{InitAddress: []string{services.Redis(t).Addr}})
	s := newStore(t, c)
	claim := idempotency.Claim{ID: idempotency.NewID("", "", "k"), Owner: "a", Lease: time.Millisecond}
	_, key := pendingKey(t, s, c, claim)
	if err := c.Do(t.Context(), c.B().Persist().Key(key).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	claim.Owner = "b"
	if b, err := s.Begin(t.Context(), claim); err != nil || b.State != idempotency.Join {
		t.Errorf("got %v, %v", b.State, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Wait(ctx, claim.ID); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the wait ended with %v", err)
	}
}

// A server that was restarted has forgotten the scripts.
func TestScriptsAreLoadedAgainAfterARestart(t *testing.T) {
	t.Parallel()
	server := services.Redis(t)
	c := newClient(t, rueidis.ClientOption{InitAddress: []string{server.Addr}})
	s := newStore(t, c)
	for i := range 3 {
		claim := idempotency.Claim{ID: idempotency.NewID("", "", idempotency.Key(fmt.Sprint("k", i))), Owner: "a", Lease: time.Minute}
		if b, err := s.Begin(t.Context(), claim); err != nil || b.State != idempotency.Run {
			t.Errorf("got %v, %v", b, err)
		}
		if err := c.Do(t.Context(), c.B().ScriptFlush().Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
}

// Records reports a key of another type under the store's prefix as corrupt, and lists the
// records after it.
func TestRecordsReportsAKeyOfAnotherTypeAndContinues(t *testing.T) {
	t.Parallel()
	c := newClient(t, rueidis.ClientOption{InitAddress: []string{services.Redis(t).Addr}})
	s := newStore(t, c)
	const made = 50
	for i := range made {
		pendingKey(t, s, c, idempotency.Claim{ID: idempotency.NewID("", "", idempotency.Key(strconv.Itoa(i))), Owner: "a", Lease: time.Minute})
	}
	other := idempotency.NewID("", "", "other")
	if err := c.Do(t.Context(), c.B().Lpush().Key("hopbound:"+other.String()).Element("x").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	listed := 0
	for r, err := range s.Records(t.Context()) {
		switch {
		case err == nil:
			listed++
		case r == nil || r.ID != other || !errors.Is(err, idempotency.ErrCorrupt):
			t.Errorf("%v, %v", r, err)
		}
	}
	if listed != made {
		t.Errorf("%d of %d records were listed", listed, made)
	}
}
