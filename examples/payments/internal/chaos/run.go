package chaos

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hopbound/hopbound/examples/payments/internal/cluster"
)

// Options are what a run depends on.
type Options struct {
	Seed     uint64
	Duration time.Duration
	Rate     float64   // payments a second
	Progress io.Writer // where progress is printed
}

// deadline is how long a customer waits for a reply.
const deadline = 5 * time.Second

// Run makes payments and injects faults for a time, waits until what is queued is done, and returns what the books say. If
// the context ends, the time is over: payments that were accepted are finished.
func Run(ctx context.Context, c *cluster.Cluster, o Options) (*Result, error) {
	running, stop := context.WithTimeout(ctx, o.Duration)
	defer stop()
	ctx = context.WithoutCancel(ctx)
	began := time.Now()
	l, err := newLoad(ctx, c, &o)
	if err != nil {
		return nil, err
	}
	defer l.close()
	f := &faults{cluster: c, random: rand.New(rand.NewPCG(o.Seed, 1)), log: newLog(o.Progress)} //nolint:gosec // it must be repeatable
	var wg sync.WaitGroup
	var faultErr error
	wg.Go(func() { faultErr = f.run(running) })
	l.run(running, ctx)
	wg.Wait()
	if faultErr != nil {
		return nil, faultErr
	}
	seconds := min(time.Since(began), o.Duration).Seconds()
	f.log.printf("no more faults; what is queued is paid now")
	if err := awaitQueue(ctx, c); err != nil {
		return nil, err
	}
	if err := l.ask(ctx); err != nil {
		return nil, err
	}
	b, err := readBooks(ctx, c)
	if err != nil {
		return nil, err
	}
	r := b.compare(l.payments)
	r.Seed, r.Seconds, r.Kills, r.Restarts = o.Seed, seconds, f.kills, f.restarts
	return r, nil
}

// log prints what happens, with the time since the start.
type log struct {
	began time.Time
	mu    sync.Mutex
	out   io.Writer
}

func newLog(out io.Writer) *log { return &log{began: time.Now(), out: out} }

func (l *log) printf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.out, "%6.1f s  %s\n", time.Since(l.began).Seconds(), fmt.Sprintf(format, args...))
}
