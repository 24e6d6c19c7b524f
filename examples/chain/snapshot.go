package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// history is the number of seconds that the charts show.
const history = 180

// snapshot is the data that the page receives every second.
type snapshot struct {
	Time    int64                     `json:"time"` // in milliseconds since the Unix epoch
	Fault   string                    `json:"fault"`
	Window  int                       `json:"window"`  // seconds over which rates and shares are computed
	Timeout float64                   `json:"timeout"` // seconds a user waits
	Stacks  map[stack]*stackNow       `json:"stacks"`
	Traces  map[stack][]summary       `json:"traces"`
	History map[stack][]*historyPoint `json:"history"`
}

// stackNow is the state of one stack, over the window.
type stackNow struct {
	historyPoint
	Rate float64  `json:"rate"` // requests per second
	P50  float64  `json:"p50"`  // milliseconds
	P99  float64  `json:"p99"`
	Hops []hopNow `json:"hops"`
}

type historyPoint struct {
	Time          int64   `json:"time"`
	Amplification float64 `json:"amplification"` // calls to the last service per request
	Success       float64 `json:"success"`       // share of the requests
}

type hopNow struct {
	Name       string             `json:"name"`
	Rate       float64            `json:"rate"`       // calls received per second
	PerRequest float64            `json:"perRequest"` // calls received per user request
	Failed     float64            `json:"failed"`     // share of these that failed
	Headroom   float64            `json:"headroom"`   // mean remaining time when a call arrives, in milliseconds
	Wasted     float64            `json:"wasted"`     // seconds of wasted work per second
	Balance    float64            `json:"balance"`    // tokens in its bucket for the next service
	Decisions  map[string]float64 `json:"decisions"`  // attempts of its own calls per second, by decision
}

// watch publishes a snapshot to all pages every second.
func (l *live) watch(ctx context.Context, hub *hub) {
	select { // so that snapshots are taken between two requests
	case <-ctx.Done():
		return
	case <-time.After(time.Second / liveRate / 2):
	}
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	past := map[stack][]*historyPoint{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		text, err := l.snapshot(ctx, time.Now(), past)
		if err != nil {
			fmt.Fprintln(os.Stderr, "chain:", err)
			continue
		}
		hub.publish(text)
	}
}

// snapshot returns the next snapshot as JSON, and appends its history points to past.
func (l *live) snapshot(ctx context.Context, now time.Time, past map[stack][]*historyPoint) ([]byte, error) {
	s := snapshot{
		Time: now.UnixMilli(), Fault: *l.fault.Load(), Window: liveWindow, Timeout: l.cfg.timeout.Seconds(),
		Stacks: map[stack]*stackNow{}, Traces: map[stack][]summary{}, History: past,
	}
	for _, ls := range l.stacks {
		current, err := ls.now(ctx, now)
		if err != nil {
			return nil, err
		}
		s.Stacks[ls.stack], s.Traces[ls.stack] = current, ls.traces.summaries(now)
		past[ls.stack] = append(past[ls.stack], &current.historyPoint)
		past[ls.stack] = past[ls.stack][max(0, len(past[ls.stack])-history):]
	}
	return json.Marshal(s)
}

// now reads the metrics of all hops, and returns what changed within the window.
func (s *liveStack) now(ctx context.Context, now time.Time) (*stackNow, error) {
	var current []totals
	for _, h := range s.telemetry.hops {
		t, err := read(ctx, h.reader)
		if err != nil {
			return nil, fmt.Errorf("%s of %s: %w", h.name, s.stack, err)
		}
		current = append(current, t)
	}
	if len(s.past) == 0 {
		s.past = append(s.past, make([]totals, len(current)))
	}
	s.past = append(s.past, current)
	s.past = s.past[max(0, len(s.past)-liveWindow-1):]
	earlier, seconds := s.past[0], float64(len(s.past)-1)
	user := current[0].since(&earlier[0])
	requests := user.succeeded + user.unsuccessful
	n := &stackNow{Rate: requests / seconds, P50: user.quantile(0.5), P99: user.quantile(0.99)}
	n.Time = now.UnixMilli()
	for i, h := range s.telemetry.hops {
		d := current[i].since(&earlier[i])
		for name := range d.decisions {
			d.decisions[name] /= seconds
		}
		n.Hops = append(n.Hops, hopNow{
			Name: h.name, Rate: d.arrived / seconds, PerRequest: share(d.arrived, requests), Failed: share(d.failed, d.arrived),
			Headroom: 1000 * share(d.headroom, d.timed), Wasted: d.wasted / seconds, Balance: d.balance, Decisions: d.decisions,
		})
	}
	n.Hops[0].Rate, n.Hops[0].PerRequest, n.Hops[0].Failed = n.Rate, 1, share(user.unsuccessful, requests)
	n.Amplification = n.Hops[len(n.Hops)-1].PerRequest
	n.Success = share(user.succeeded, requests)
	return n, nil
}

// share returns part / whole, or 0 if whole is 0.
func share(part, whole float64) float64 {
	if whole <= 0 {
		return 0
	}
	return part / whole
}
