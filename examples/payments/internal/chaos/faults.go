package chaos

import (
	"context"
	"math/rand/v2"
	"strings"
	"syscall"
	"time"

	"github.com/hopbound/hopbound/examples/payments/internal/cluster"
	"github.com/hopbound/hopbound/examples/payments/internal/shop"
	"github.com/jackc/pgx/v5"
)

// faults makes one fault after the other.
type faults struct {
	cluster         *cluster.Cluster
	random          *rand.Rand
	log             *log
	kills, restarts int
}

// run makes faults until the context ends. It leaves everything running.
func (f *faults) run(ctx context.Context) error {
	all := []func(ctx context.Context) error{
		f.kill, f.kill, f.kill, f.stop, f.stop, f.deploy, f.cut, f.cut, f.delay, f.bankOutage, f.restartPostgres, f.restartRedis, f.exhaustPool,
	}
	// Each one is made once, in a random order, before any is made again.
	for ctx.Err() == nil {
		for _, i := range f.random.Perm(len(all)) {
			if !sleep(ctx, time.Duration(1000+f.random.IntN(2000))*time.Millisecond) {
				return nil
			}
			if err := all[i](context.WithoutCancel(ctx)); err != nil {
				return err
			}
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// pick returns an instance of a service, other than the bank.
func (f *faults) pick() *cluster.Process {
	roles := []string{shop.Gateway, shop.Orders, shop.Payments, shop.Ledger}
	return f.cluster.Find(roles[f.random.IntN(len(roles))], f.random.IntN(2))
}

// kill kills a process, and starts it again.
func (f *faults) kill(ctx context.Context) error {
	p := f.pick()
	f.log.printf("kill -9 %s", p)
	p.Kill()
	f.kills++
	sleep(ctx, time.Duration(f.random.IntN(1000))*time.Millisecond)
	return p.Start(ctx)
}

// stop stops a process for longer than the lease of a key, and lets it go on.
func (f *faults) stop(ctx context.Context) error {
	p := f.pick()
	f.log.printf("SIGSTOP %s, for four seconds", p)
	p.Signal(syscall.SIGSTOP)
	sleep(ctx, 4*time.Second)
	p.Signal(syscall.SIGCONT)
	return nil
}

// deploy restarts all instances of a service, one after the other.
func (f *faults) deploy(ctx context.Context) error {
	role := f.pick().Role
	release := 3 - f.cluster.Find(role, 0).Release // the other one of 1 and 2
	f.log.printf("rolling deploy of release %d of %s", release, role)
	for i := range 2 {
		p := f.cluster.Find(role, i)
		p.Release = release
		if err := p.Restart(ctx); err != nil {
			return err
		}
		f.restarts++
		sleep(ctx, 500*time.Millisecond)
	}
	return nil
}

// cut breaks all connections to an instance.
func (f *faults) cut(ctx context.Context) error {
	proxy := f.cluster.Proxies[f.random.IntN(len(f.cluster.Proxies))]
	f.log.printf("connections to %s are cut", proxy.Name)
	proxy.Stop()
	err := proxy.Start()
	for tries := 0; err != nil && tries < 200; tries++ { // its port may be that of somebody's connection by now
		sleep(ctx, 50*time.Millisecond)
		err = proxy.Start()
	}
	return err
}

// delay delays all packets to an instance for a while.
func (f *faults) delay(ctx context.Context) error {
	proxy := f.cluster.Proxies[f.random.IntN(len(f.cluster.Proxies))]
	f.log.printf("%s is 300 ms away, for three seconds", proxy.Name)
	if _, err := proxy.Toxics.AddToxicJson(strings.NewReader(`{"name": "delay", "type": "latency", "attributes": {"latency": 300}}`)); err != nil {
		return err
	}
	sleep(ctx, 3*time.Second)
	return proxy.Toxics.RemoveToxic(ctx, "delay")
}

// bankOutage kills the bank for some seconds.
func (f *faults) bankOutage(ctx context.Context) error {
	f.log.printf("the bank is down, for five seconds")
	p := f.cluster.Find(shop.Bank, 0)
	p.Kill()
	f.kills++
	sleep(ctx, 5*time.Second)
	return p.Start(ctx)
}

func (f *faults) restartPostgres(context.Context) error {
	if f.cluster.Postgres == nil {
		return nil // it runs elsewhere
	}
	f.log.printf("kill -9 PostgreSQL")
	f.cluster.Postgres.Kill()
	f.cluster.Postgres.Start()
	f.restarts++
	return nil
}

func (f *faults) restartRedis(context.Context) error {
	if f.cluster.Redis == nil {
		return nil // as above
	}
	f.log.printf("kill -9 Redis")
	f.cluster.Redis.Kill()
	f.cluster.Redis.Start()
	f.restarts++
	return nil
}

// exhaustPool holds a lock that all handlers of a service wait for, so that all connections of its pool are taken.
func (f *faults) exhaustPool(ctx context.Context) error {
	tables := map[string]string{shop.Orders: "orders", shop.Payments: "payments", shop.Ledger: "entries"}
	roles := []string{shop.Orders, shop.Payments, shop.Ledger}
	role := roles[f.random.IntN(len(roles))]
	f.log.printf("the pools of %s are exhausted, for three seconds", role)
	conn, err := pgx.Connect(ctx, f.cluster.Config.URL(role))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "BEGIN; LOCK TABLE "+tables[role]+" IN ACCESS EXCLUSIVE MODE"); err != nil {
		return err
	}
	sleep(ctx, 3*time.Second)
	_, err = conn.Exec(ctx, "COMMIT")
	return err
}
