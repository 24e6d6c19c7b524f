package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/hopbound/hopbound/examples/payments/internal/shop"
	"github.com/hopbound/hopbound/idempotency/storetest/services"
	"github.com/rs/zerolog"
)

// ErrMissing says that a program is not installed.
var ErrMissing = errors.New("not installed")

// Options are what differs from run to run.
type Options struct {
	Config   shop.Config // the rest of it is set by Start
	Postgres string      // the address of a server that runs already; empty to start one
	Redis    string      // as above
	Traces   bool        // receive the spans of all processes
	Program  string      // that serves a role with: Program serve -config FILE -role ROLE -instance N
}

// Cluster is a system that runs. One goroutine uses it at a time, except for its proxies and its config.
type Cluster struct {
	Config    shop.Config
	Processes []*Process
	Proxies   []*toxiproxy.Proxy // in the order of the processes
	Postgres  *services.Server   // nil if it runs elsewhere
	Redis     *services.Server   // as above
	Traces    *Traces            // nil unless the config asks for traces

	owner owner
}

// roles are the services in the order in which they start: no service calls one that comes later.
func roles() []string {
	return []string{shop.Bank, shop.Ledger, shop.Payments, shop.Orders, shop.Gateway}
}

// Customers are those who have a certificate.
func Customers() []string { return []string{"alice", "bob", "carol", "dave"} }

// Start starts a system. The error wraps ErrMissing if PostgreSQL or Redis is not installed.
func Start(ctx context.Context, o Options) (c *Cluster, err error) {
	c = &Cluster{Config: o.Config}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop())
		}
	}()
	if c.Config.Folder, err = os.MkdirTemp("", "payments"); err != nil {
		return c, err
	}
	c.owner.Cleanup(func() { _ = os.RemoveAll(c.Config.Folder) })
	if o.Traces {
		if c.Traces, err = newTraces(); err != nil {
			return c, err
		}
		c.owner.Cleanup(c.Traces.close)
		c.Config.Traces = c.Traces.Address
	}
	if err := c.startStores(o); err != nil {
		return c, err
	}
	if o.Postgres != "" || o.Redis != "" { // a shared server may still hold the data of other runs
		c.Config.Prefix = fmt.Sprintf("payments_%08x_", rand.Uint32()) //nolint:gosec // it need not be secret
	}
	if o.Postgres != "" {
		c.owner.Cleanup(func() { _ = shop.Drop(context.WithoutCancel(ctx), &c.Config) })
	}
	if err := shop.Migrate(ctx, &c.Config); err != nil {
		return c, fmt.Errorf("creating tables: %w", err)
	}
	if err := shop.Certify(c.Config.Folder, append(roles(), Customers()...)...); err != nil {
		return c, err
	}
	if err := c.startProxies(); err != nil {
		return c, err
	}
	config := c.ConfigPath()
	if err := c.Config.Write(config); err != nil {
		return c, err
	}
	for _, role := range roles() {
		for i, address := range c.Config.Listen[role] {
			p := &Process{Release: 1, Role: role, Instance: i, Address: address, program: o.Program, config: config, folder: c.Config.Folder}
			c.Processes = append(c.Processes, p)
			if err := p.Start(ctx); err != nil {
				return c, err
			}
		}
	}
	return c, nil
}

// startStores starts PostgreSQL and Redis, unless they run elsewhere.
func (c *Cluster) startStores(o Options) (err error) {
	c.Config.Postgres, c.Config.Redis = o.Postgres, o.Redis
	defer func() { err = c.owner.failure(recover(), err) }()
	if o.Postgres == "" {
		c.Postgres = services.Postgres(&c.owner, "synchronous_commit=on", "max_connections=200")
		c.Config.Postgres = c.Postgres.Addr
	}
	if o.Redis == "" { // it must not forget an outcome when it is restarted
		c.Redis = services.Redis(&c.owner, "--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction")
		c.Config.Redis = c.Redis.Addr
	}
	return nil
}

// startProxies chooses an address for each instance, and starts the proxy before it.
func (c *Cluster) startProxies() error {
	c.Config.Listen, c.Config.Targets = map[string][]string{}, map[string][]string{}
	control := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	for _, role := range roles() {
		instances := 2
		if role == shop.Bank {
			instances = 1
		}
		for i := range instances {
			listen, err := c.freeAddress()
			if err != nil {
				return err
			}
			proxy := toxiproxy.NewProxy(control, fmt.Sprintf("%s-%d", role, i), "127.0.0.1:0", listen)
			if err := proxy.Start(); err != nil {
				return err
			}
			c.owner.Cleanup(proxy.Stop)
			c.Proxies = append(c.Proxies, proxy)
			c.Config.Listen[role] = append(c.Config.Listen[role], listen)
			c.Config.Targets[role] = append(c.Config.Targets[role], proxy.Listen)
		}
	}
	return nil
}

// freeAddress returns an address that nothing listens at. Its port is below those that systems give to connections and to
// listeners without a port of their own, so that none of them takes it before the instance listens, or while it restarts.
func (c *Cluster) freeAddress() (address string, err error) {
	const lowest, highest, tries = 15_000, 30_000, 100
	for range tries {
		address = fmt.Sprintf("127.0.0.1:%d", lowest+rand.IntN(highest-lowest)) //nolint:gosec // it need not be secret
		if slices.ContainsFunc(slices.Collect(maps.Values(c.Config.Listen)), func(taken []string) bool { return slices.Contains(taken, address) }) {
			continue
		}
		var l net.Listener
		if l, err = net.Listen("tcp", address); err == nil { //nolint:noctx // it takes no time
			return address, l.Close()
		}
	}
	return "", err
}

// ConfigPath returns the path of the file that tells processes and clients where everything is.
func (c *Cluster) ConfigPath() string { return filepath.Join(c.Config.Folder, "config.json") }

// Find returns an instance of a role.
func (c *Cluster) Find(role string, instance int) *Process {
	i := slices.IndexFunc(c.Processes, func(p *Process) bool { return p.Role == role && p.Instance == instance })
	return c.Processes[i]
}

// Stop drains the services, first the gateways, and stops everything. It returns the errors of those that did not drain.
func (c *Cluster) Stop() error {
	var errs []error
	for _, p := range slices.Backward(c.Processes) {
		errs = append(errs, p.Stop())
	}
	c.Processes = nil
	c.owner.close()
	return errors.Join(errs...)
}

// owner starts servers as a test would, and ends them.
type owner struct{ closers []func() }

// failed is what owner panics with, so that a failure ends the start.
type failed struct{ err error }

// Helper implements services.TB.
func (o *owner) Helper() {}

// Fatal ends the start.
func (o *owner) Fatal(args ...any) { panic(failed{errors.New(fmt.Sprint(args...))}) }

// Fatalf ends the start.
func (o *owner) Fatalf(format string, args ...any) { panic(failed{fmt.Errorf(format, args...)}) }

// Skipf ends the start, because something is not installed. The format is the advice for a test.
func (o *owner) Skipf(_ string, args ...any) {
	panic(failed{fmt.Errorf("%w: %s (on Debian: apt-get install postgresql redis-server)", ErrMissing, fmt.Sprint(args...))})
}

// Cleanup runs f when the cluster stops.
func (o *owner) Cleanup(f func()) { o.closers = append(o.closers, f) }

// failure returns the error that a recovered panic has.
func (*owner) failure(p any, err error) error {
	switch p := p.(type) {
	case nil:
		return err
	case failed:
		return p.err
	case runtime.Error:
		return p
	default:
		return fmt.Errorf("%v", p)
	}
}

func (o *owner) close() {
	defer func() { _ = o.failure(recover(), nil) }() // a server that does not end is killed with this process
	for len(o.closers) > 0 {
		last := len(o.closers) - 1
		f := o.closers[last]
		o.closers = o.closers[:last]
		f()
	}
}

// startTimeout bounds how long a service may take to start.
const startTimeout = 30 * time.Second
