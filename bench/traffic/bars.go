package main

import (
	"fmt"
	"slices"
	"strings"
)

// bar is what a row of Hopbound's must reach.
type bar struct {
	want string // description
	met  func(r row, all []row) bool
}

// barOf returns the bar of a shape, or false. Shapes for comparison and for the chart have no bar.
func barOf(shape string) (bar, bool) {
	b, ok := bars()[shape]
	return b, ok
}

// bars are the bars of Hopbound's rows by shape, for default settings.
func bars() map[string]bar {
	all := map[string]bar{
		"outage/depth=1":  leafCalls(1.02),
		"outage/depth=5":  leafCalls(1.02),
		"outage/depth=10": leafCalls(1.02),

		"outage-after-traffic/first-10s": leafCalls(1.04),
		"outage-after-traffic/after-10s": leafCalls(1.01),
		allOfManyRoots:                   leafCalls(1.30),
		"many-roots/after-5s":            leafCalls(1.01),

		"partial/depth=5":  both(success(0.998), middleCalls(1.002)),
		"partial/depth=10": both(success(0.998), middleCalls(1.015)),
		"mapped/depth=5":   success(0.998),
		"mapped/depth=10":  success(0.998),
		"deep-random":      both(success(0.995), noMoreThanNative()),

		"fan-out-20/sequential": success(0.999),
		"fan-out-20/parallel":   success(0.999),
		"fan-out-100/parallel":  success(0.99),
		httpPages:               success(0.99),
		slowSiblings:            noFailures(),
		"held-watch":            noFailures(),

		"one-of-three-bad/default":   both(success(0.82), badOnce()),
		"one-of-three-bad/ratio=0.5": both(success(0.999), badOnce()),

		"plain-hop/copies":        leafCalls(3),
		"plain-hop/copies,native": leafCalls(3),
	}
	for _, s := range killShapes() {
		all[s.rows[0]] = failedLikeNative()
	}
	for _, s := range stormShapes() {
		name := s.rows[0]
		switch {
		case strings.HasSuffix(name, ",queue=40"):
			all[name] = recovery(1)
		case name == "storm/hedge=30ms":
			all[name] = both(recoveryLikeGRPC(), settled(0.99))
		default:
			all[name] = recoveryLikeGRPC()
		}
	}
	return all
}

// missed returns the description of a row's bar if the row misses it, and "" otherwise.
func missed(r row, all []row) string {
	b, ok := barOf(r.Shape)
	if !ok || r.Stack != hopbound || b.met(r, all) {
		return ""
	}
	return b.want
}

// both is a bar that requires two others.
func both(a, b bar) bar {
	return bar{a.want + ", " + b.want, func(r row, all []row) bool { return a.met(r, all) && b.met(r, all) }}
}

func success(minimum float64) bar {
	return bar{fmt.Sprintf("success ≥ %v", minimum), func(r row, _ []row) bool { return r.Success >= minimum }}
}

func leafCalls(maximum float64) bar {
	return bar{fmt.Sprintf("leaf calls ≤ %v", maximum), func(r row, _ []row) bool { return r.LeafCalls <= maximum }}
}

func middleCalls(maximum float64) bar {
	return bar{fmt.Sprintf("middle calls ≤ %v", maximum), func(r row, _ []row) bool { return r.MiddleCalls <= maximum }}
}

func noFailures() bar {
	return bar{"0 failed", func(r row, _ []row) bool { return r.Failed == 0 }}
}

func badOnce() bar {
	return bar{"no call reaches the bad backend twice", func(r row, _ []row) bool { return r.TwiceBad == 0 }}
}

func noMoreThanNative() bar {
	return bar{"leaf calls ≤ native", func(r row, all []row) bool {
		reference, ok := find(all, native, r.Shape)
		return !ok || r.LeafCalls <= reference.LeafCalls
	}}
}

// failedLikeNative allows 0.05 % of the calls more than native. Servers with Hopbound
// are compared with native and plain servers.
func failedLikeNative() bar {
	return bar{"failed ≤ native + 0.05 % of requests", func(r row, all []row) bool {
		plain, _, _ := strings.Cut(r.Shape, "+")
		reference, ok := find(all, native, plain)
		return !ok || float64(r.Failed) <= float64(reference.Failed)+0.0005*float64(r.Requests)
	}}
}

func recovery(maximum float64) bar {
	return bar{fmt.Sprintf("recovery ≤ %v s", maximum), func(r row, _ []row) bool {
		return r.Recovery != nil && *r.Recovery >= 0 && *r.Recovery <= maximum
	}}
}

// recoveryLikeGRPC allows one second more than gRPC alone. A variant that is not measured for gRPC alone is compared
// with storm/plain.
func recoveryLikeGRPC() bar {
	return bar{"recovery ≤ grpc + 1 s", func(r row, all []row) bool {
		reference, ok := find(all, grpcAlone, r.Shape, "storm/plain")
		if !ok || *reference.Recovery < 0 {
			return true
		}
		return recovery(*reference.Recovery+1).met(r, all)
	}}
}

// settled requires a minimum success at the end of the run.
func settled(minimum float64) bar {
	return bar{fmt.Sprintf("success of the last third ≥ %v", minimum), func(r row, _ []row) bool { return r.Settled >= minimum }}
}

// find returns the row of a stack for the first of the shapes that has one. A run with -shape or -stack may have
// none; a bar that is compared with such a row counts as met.
func find(all []row, stack string, shapes ...string) (row, bool) {
	for _, shape := range shapes {
		i := slices.IndexFunc(all, func(r row) bool { return r.Stack == stack && r.Shape == shape })
		if i >= 0 {
			return all[i], true
		}
	}
	return row{}, false
}
