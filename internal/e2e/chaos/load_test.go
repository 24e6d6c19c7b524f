package chaos_test

import (
	"context"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The phases of a run.
const (
	before = 5 * time.Second
	during = 15 * time.Second
	after  = 15 * time.Second
	usual  = 50 // requests per second, of which every fifth is a write
)

// phase counts the requests that users start in a phase.
type phase struct {
	reads, readsReal, readsDefault int
	writes, writesDone             int
	leafCalls                      int64
	codes                          map[codes.Code]int // of failures
}

func (p *phase) requests() int { return p.reads + p.writes }

// real is the share of the requests that are served by the last service.
func (p *phase) real() float64 { return float64(p.readsReal+p.writesDone) / float64(p.requests()) }

// served is the share of the reads that get any reply.
func (p *phase) served() float64 { return float64(p.readsReal+p.readsDefault) / float64(p.reads) }

// written is the share of the writes that succeed.
func (p *phase) written() float64 { return float64(p.writesDone) / float64(p.writes) }

// amplification is how many calls the last service gets for each request.
func (p *phase) amplification() float64 { return float64(p.leafCalls) / float64(p.requests()) }

// result is what a run measures.
type result struct {
	during, settled phase         // settled begins when the fault has ended for as long as the row says
	recovered       time.Duration // from the end of the fault until the first second in which all requests are served again
	twice           int           // writes with more than one effect
	lost            int           // writes that succeeded without an effect
	late            int           // requests that ended more than 100 ms after their deadline
}

// run makes requests, with a fault in the middle.
func run(t *testing.T, row *row) *result {
	t.Helper()
	c := newChain(t, row.prepare)
	r := &result{}
	var rate atomic.Int64
	rate.Store(usual)
	l := &load{chain: c, rate: &rate, began: time.Now(), result: r, settle: row.settle, seconds: map[int]*phase{}, succeeded: map[string]bool{}}
	l.start()
	time.Sleep(before)
	l.enter(1)
	row.inject(c, &rate)
	time.Sleep(during)
	row.heal(c, &rate)
	l.enter(2)
	time.Sleep(row.settle)
	l.enter(3)
	time.Sleep(after - row.settle)
	l.stop()
	return r
}

// load is the users.
type load struct {
	chain    *chain
	rate     *atomic.Int64
	began    time.Time
	settle   time.Duration
	stopping atomic.Bool
	wg       sync.WaitGroup

	mu        sync.Mutex
	phase     int // 0 before the fault, 1 during it, 2 after it, 3 when it has settled
	healed    time.Time
	leafCalls int64 // when the phase began
	result    *result
	seconds   map[int]*phase // after the fault has ended
	succeeded map[string]bool
}

// enter enters the next phase.
func (l *load) enter(number int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	calls := l.chain.leafCalls.Load()
	switch l.phase {
	case 1:
		l.result.during.leafCalls, l.healed = calls-l.leafCalls, time.Now()
	case 3:
		l.result.settled.leafCalls = calls - l.leafCalls
	}
	l.phase, l.leafCalls = number, calls
}

// start starts the users, who do not wait for each other.
func (l *load) start() {
	l.wg.Go(func() {
		dice := rand.New(rand.NewPCG(1, 2))
		for i := 0; !l.stopping.Load(); i++ {
			time.Sleep(time.Duration(dice.ExpFloat64() * float64(time.Second) / float64(l.rate.Load())))
			l.wg.Go(func() { l.request(i) })
		}
	})
}

// stop ends the users and evaluates the writes.
func (l *load) stop() {
	l.stopping.Store(true)
	l.wg.Wait()
	l.enter(4)
	r := l.result
	for _, n := range l.chain.effects {
		if n > 1 {
			r.twice++
		}
	}
	for account := range l.succeeded {
		if l.chain.effects[account] == 0 {
			r.lost++
		}
	}
	r.recovered = after
	for s := int(after/time.Second) - 1; s >= 0; s-- {
		if p := l.seconds[s]; p != nil && p.readsReal+p.writesDone < p.requests() {
			break
		}
		r.recovered = time.Duration(s) * time.Second
	}
}

func (l *load) request(i int) {
	ctx, cancel := context.WithTimeout(l.chain.t.Context(), userDeadline)
	defer cancel()
	l.mu.Lock()
	number, healed := l.phase, l.healed
	l.mu.Unlock()
	started := time.Now()
	write, account := i%5 == 0, strconv.Itoa(i)
	var reply *testv1.IdempotentResponse
	var err error
	if write {
		_, err = l.chain.user.Pay(ctx, &testv1.PayRequest{Account: account, Cents: 1}, interceptors.UseKey(idempotency.NewKey()))
	} else {
		reply, err = l.chain.user.Idempotent(ctx, &testv1.IdempotentRequest{})
	}
	took := time.Since(started)

	l.mu.Lock()
	defer l.mu.Unlock()
	if took > userDeadline+100*ms {
		l.result.late++
	}
	if write && err == nil {
		l.succeeded[account] = true
	}
	switch number {
	case 1:
		l.result.during.count(write, reply, err)
	case 3:
		l.result.settled.count(write, reply, err)
	}
	if number >= 2 {
		second := int(started.Sub(healed) / time.Second)
		if l.seconds[second] == nil {
			l.seconds[second] = &phase{}
		}
		l.seconds[second].count(write, reply, err)
	}
}

func (p *phase) count(write bool, reply *testv1.IdempotentResponse, err error) {
	switch {
	case write && err == nil:
		p.writesDone++
	case err == nil && reply.GetText() == "real":
		p.readsReal++
	case err == nil:
		p.readsDefault++
	default:
		if p.codes == nil {
			p.codes = map[codes.Code]int{}
		}
		p.codes[status.Code(err)]++
	}
	if write {
		p.writes++
	} else {
		p.reads++
	}
}
