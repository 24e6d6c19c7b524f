package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os/user"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/pgstore"
	"github.com/hopbound/hopbound/idempotency/redisstore"
	"github.com/hopbound/hopbound/idempotency/storetest/services"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"
)

// backend is a store as a server uses it, and the flags by which the command finds it.
type backend struct {
	flags []string
	use   func(func(store idempotency.Inspector))
}

func (b *backend) invoke(t *testing.T, args ...string) result {
	t.Helper()
	return invoke(t, append(append([]string{}, b.flags...), args...)...)
}

func newRedisBackend(t *testing.T) *backend {
	t.Helper()
	server := services.Redis(t)
	client, err := rueidis.NewClient(redisstore.ClientOption(rueidis.ClientOption{InitAddress: []string{server.Addr}}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	store, err := redisstore.New(client, redisstore.WithPrefix("shop"))
	if err != nil {
		t.Fatal(err)
	}
	return &backend{[]string{"-store=redis://" + server.Addr, "-prefix=shop"}, func(use func(idempotency.Inspector)) { use(store) }}
}

func newPool(t *testing.T, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func newPostgresBackend(t *testing.T) *backend {
	t.Helper()
	server := services.Postgres(t)
	pool := newPool(t, server.URL())
	if _, err := pool.Exec(t.Context(), "CREATE SCHEMA shop"); err != nil {
		t.Fatal(err)
	}
	if err := pgstore.Migrate(t.Context(), pool, pgstore.WithSchema("shop")); err != nil {
		t.Fatal(err)
	}
	store, err := pgstore.New(pool, pgstore.WithSchema("shop"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	return &backend{[]string{"-store=" + server.URL(), "-schema=shop"}, func(use func(idempotency.Inspector)) { use(store) }}
}

func newBoltBackend(t *testing.T) *backend {
	t.Helper()
	path := newBolt(t, func(idempotency.Inspector) {})
	return &backend{[]string{"-store=bolt:" + path}, func(use func(idempotency.Inspector)) { withBolt(t, path, use) }}
}

// backends are those that servers share; a bolt file is one process's.
func backends() map[string]func(t *testing.T) *backend {
	return map[string]func(t *testing.T) *backend{"redis": newRedisBackend, "postgres": newPostgresBackend}
}

func TestRecordsAreFoundReleasedAndDeleted(t *testing.T) {
	t.Parallel()
	all := backends()
	all["bolt"] = newBoltBackend
	for name, open := range all {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := open(t)
			byKey := []string{"-method", method, "-key", string(key), "-tenant", "shop"}
			b.invoke(t, append(byKey, "find")...).want(t, exitFailed, "no record of this tenant, method and key")
			b.invoke(t, append([]string{"find"}, byKey...)...).want(t, exitFailed, "no record of this tenant, method and key")
			var lease idempotency.Lease
			b.use(func(store idempotency.Inspector) {
				lease = begin(t, store, "shop", method, lasting)
				save(t, store, lease, idempotency.Codec{}, "charged c-42")
			})
			id := lease.ID.String()
			b.invoke(t, append([]string{"find"}, byKey...)...).want(t, 0, "id                  "+id+"\n", "method              "+method+"\n",
				"key_hash            "+key.Hash()+"\n", "state               pending\n", "owner               ", "fence               ", "lease_left          1h",
				"age                 ", "attempts            1\n", "taken_over          false\n", "checkpoint          charged c-42\n")
			b.invoke(t, "list").want(t, 0, "no records")
			b.invoke(t, "list", "-older=0s").want(t, 0, id)

			b.invoke(t, "release", "-hash", key.Hash(), "-reason", "it hangs").want(t, 0, "state               pending\n", "action=release result=done id="+id)
			b.use(func(store idempotency.Inspector) {
				if err := store.Complete(t.Context(), lease, nil, time.Hour); !errors.Is(err, idempotency.ErrLeaseLost) {
					t.Errorf("the handler that was released: %v", err)
				}
			})
			b.invoke(t, "release", "-hash", key.Hash(), "-reason", "again").want(t, exitFailed, "the record is released; only a pending record can be released")
			r := b.invoke(t, "-json", "find", "-id", id)
			r.want(t, 0)
			if o := r.objects(t)[0]; o["state"] != "released" || o["taken_over"] != true || o["checkpoint"] != "charged c-42" || o["retention_left_seconds"] == nil || o["lease_left_seconds"] != nil {
				t.Error(r.out)
			}

			b.use(func(store idempotency.Inspector) {
				complete(t, store, begin(t, store, "shop", method, time.Hour), idempotency.Codec{}, &idempotency.Outcome{Response: []byte(response)})
			})
			b.invoke(t, append([]string{"release", "-reason", "again"}, byKey...)...).want(t, exitFailed, "the record is done; only a pending record can be released")
			b.invoke(t, append([]string{"delete", "-reason", "a wrong response"}, byKey...)...).want(t, 0, "state               done", "retention_left      1h", "action=delete")
			b.invoke(t, "find", "-hash", key.Hash()).want(t, exitFailed, "no record has the key hash")
		})
	}
}

func TestRecordOfAHandlerThatMayRunIsDeletedByForceAlone(t *testing.T) {
	t.Parallel()
	b := newBoltBackend(t)
	b.use(func(store idempotency.Inspector) { begin(t, store, "", method, lasting) })
	args := []string{"delete", "-hash", key.Hash(), "-reason", "a test"}
	r := b.invoke(t, args...)
	r.want(t, exitFailed, "its lease expires in 1h", "its handler may be running", "use -force. Nothing was changed")
	if strings.Contains(r.log, "result=") {
		t.Errorf("logged %q", r.log)
	}
	b.invoke(t, append(args, "-force")...).want(t, 0, "result=done")

	b.use(func(store idempotency.Inspector) {
		runOut(t, store, begin(t, store, "", method, time.Millisecond).ID)
	})
	b.invoke(t, args...).want(t, 0, "result=done")
}

// meanwhile is an output that calls change when the first is written to it.
type meanwhile struct {
	bytes.Buffer
	once   sync.Once
	change func()
}

func (m *meanwhile) Write(b []byte) (int, error) {
	m.once.Do(m.change)
	return m.Buffer.Write(b)
}

func TestRecordThatChangesMeanwhileIsLeftAlone(t *testing.T) {
	t.Parallel()
	for name, open := range backends() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := open(t)
			for _, command := range []string{"release", "delete"} {
				b.use(func(store idempotency.Inspector) {
					fullMethod := "/shop.v1.Orders/" + command
					lease := begin(t, store, "", fullMethod, time.Hour)
					out := &meanwhile{change: func() {
						complete(t, store, lease, idempotency.Codec{}, &idempotency.Outcome{Response: []byte(response)})
					}}
					var log bytes.Buffer
					args := append([]string{command, "-id", lease.ID.String(), "-reason", "a test"}, b.flags...)
					if command == "delete" {
						args = append(args, "-force")
					}
					r := result{run(args, out, &log), out.String(), log.String()}
					r.want(t, exitFailed, "level=WARN", "result=refused", "the record has changed since it was printed", "Nothing was changed")
					b.invoke(t, "find", "-id", lease.ID.String()).want(t, 0, "state               done")
				})
			}
		})
	}
}

func TestEachChangeIsLogged(t *testing.T) {
	t.Parallel()
	b := newBoltBackend(t)
	var lease idempotency.Lease
	b.use(func(store idempotency.Inspector) { lease = begin(t, store, "", method, time.Hour) })
	r := b.invoke(t, "-json", "release", "-method", method, "-key", string(key), "-reason", "ticket 4711\nlevel=ERROR")
	r.want(t, 0)
	if n := strings.Count(r.log, "\n"); n != 1 {
		t.Errorf("%d lines", n)
	}
	var line map[string]any
	if err := json.Unmarshal([]byte(r.log), &line); err != nil {
		t.Fatal(err)
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{
		"level": "INFO", "action": "release", "result": "done", "id": lease.ID.String(), "method": method, "key_hash": key.Hash(), "state": "pending",
		"fence": float64(lease.Fence), "owner": lease.Owner, "reason": "ticket 4711\nlevel=ERROR", "user": me.Username,
	} {
		if line[name] != want {
			t.Errorf("%s is %v, want %v", name, line[name], want)
		}
	}
}

func TestPrintedSQLMakesTheTables(t *testing.T) {
	t.Parallel()
	server := services.Postgres(t)
	pool := newPool(t, server.URL())
	exec := func(sql string) {
		t.Helper()
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%v\n%s", err, sql)
		}
	}
	store := "-store=" + strings.Replace(server.URL(), "postgres@", "shop@", 1)
	exec(`CREATE SCHEMA shop; CREATE ROLE shop LOGIN`)
	invoke(t, "-store="+server.URL(), "-schema=shop", "list").want(t, exitFailed, "hopbound_idempotency", "do not exist (hopbound-keys sql)")
	exec(invoke(t, "sql", "-schema=shop", "-role=shop").out)
	invoke(t, store, "-schema=shop", "list").want(t, 0, "no records")
	exec(invoke(t, "sql", "-schema=shop", "-down").out)
	invoke(t, "-store="+server.URL(), "-schema=shop", "list").want(t, exitFailed, "hopbound_idempotency")
	exec(invoke(t, "sql").out)
	invoke(t, "-store="+server.URL(), "list").want(t, 0, "no records")
}
