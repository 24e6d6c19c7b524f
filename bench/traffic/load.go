package main

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// outcome counts the users' requests.
type outcome struct{ requests, failed int }

// counter counts requests and failures of concurrent users.
type counter struct{ requests, failed atomic.Int64 }

func (n *counter) add(err error) {
	n.requests.Add(1)
	if err != nil {
		n.failed.Add(1)
	}
}

func (n *counter) outcome() outcome {
	return outcome{requests: int(n.requests.Load()), failed: int(n.failed.Load())}
}

// users are concurrent users. Each makes the next request when it has received the reply to the last.
type users struct {
	concurrent int
	requests   int           // of all users
	deadline   time.Duration // of each request; zero is 10 seconds
	enough     func() bool   // reports whether to stop early; nil for never
}

// run makes the requests. The text of a request is its number.
func (u users) run(ctx context.Context, request call) outcome {
	if u.deadline == 0 {
		u.deadline = 10 * time.Second
	}
	var all sync.WaitGroup
	var next atomic.Int64
	var n counter
	for range u.concurrent {
		all.Go(func() {
			for u.enough == nil || !u.enough() {
				i := next.Add(1)
				if i > int64(u.requests) {
					return
				}
				ctx, cancel := context.WithTimeout(ctx, u.deadline)
				n.add(request(ctx, strconv.FormatInt(i, 10)))
				cancel()
			}
		})
	}
	all.Wait()
	return n.outcome()
}

// dice returns random numbers from a fixed seed. It is safe for concurrent use.
type dice struct {
	mu  sync.Mutex
	rng *rand.Rand
}

func newDice(seed uint64) *dice { return &dice{rng: rand.New(rand.NewPCG(seed, 1))} } //nolint:gosec // repeatable on purpose

// float returns a number from 0 to 1.
func (d *dice) float() float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rng.Float64()
}

// exponential returns an exponentially distributed number with a mean of 1. Such numbers are the gaps of a Poisson
// process.
func (d *dice) exponential() float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rng.ExpFloat64()
}

// between returns a duration from low to high.
func (d *dice) between(low, high time.Duration) time.Duration {
	return low + time.Duration(d.float()*float64(high-low))
}

// failOnce fails the first attempt of a share of the calls. A call is identified by its text, and whether it fails
// depends only on the text.
type failOnce struct {
	share float64
	mu    sync.Mutex
	seen  map[string]bool // calls that have failed
}

func newFailOnce(share float64) *failOnce { return &failOnce{share: share, seen: map[string]bool{}} }

func (f *failOnce) check(text string) error {
	if f.share < 1 && textDice(text) >= f.share {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seen[text] {
		return nil
	}
	f.seen[text] = true
	return errUnavailable
}

// textDice returns a number from 0 to 1 that depends only on the text.
func textDice(text string) float64 {
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(text))
	return rand.New(rand.NewPCG(hash.Sum64(), 1)).Float64() //nolint:gosec // repeatable on purpose
}

// fate returns a number for each attempt of a call at one service. The number depends only on the service's name, the
// call's text and the number of earlier attempts, so all stacks meet the same failures.
type fate struct {
	service  string
	mu       sync.Mutex
	attempts map[string]int // by text
}

func newFate(service string) *fate { return &fate{service: service, attempts: map[string]int{}} }

// draw returns a number from 0 to 1.
func (f *fate) draw(text string) float64 {
	f.mu.Lock()
	f.attempts[text]++
	n := f.attempts[text]
	f.mu.Unlock()
	return textDice(fmt.Sprintf("%s %s %d", f.service, text, n))
}
