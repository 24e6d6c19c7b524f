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

// outcome is what has become of the users' requests.
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

// users are concurrent users that each make the next request when they have got
// the reply to the last.
type users struct {
	concurrent int
	requests   int           // of all users
	deadline   time.Duration // of each request; zero is 10 seconds
	enough     func() bool   // whether to stop early; nil is never
}

// run makes the requests. Each has its number as its text.
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

// dice is randomness with a fixed seed, for concurrent use.
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

// exponential returns a number with a mean of 1, which makes a Poisson process of
// the gaps between events.
func (d *dice) exponential() float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rng.ExpFloat64()
}

// between returns a duration from low to high.
func (d *dice) between(low, high time.Duration) time.Duration {
	return low + time.Duration(d.float()*float64(high-low))
}

// failOnce fails the first attempt of a share of the calls. The text of a call is
// its identity. Which calls fail depends on nothing but their text.
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

// textDice returns a number from 0 to 1 that belongs to the text.
func textDice(text string) float64 {
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(text))
	return rand.New(rand.NewPCG(hash.Sum64(), 1)).Float64() //nolint:gosec // repeatable on purpose
}

// fate draws a number for each attempt of a call at one service. It depends only on
// the service's name, the call's text and how many attempts have come before, so that
// all stacks meet the same failures.
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
