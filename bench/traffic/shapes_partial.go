package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// chartPercents are the shares of failing leaf calls in the chart.
func chartPercents() []int { return []int{1, 5, 10, 20, 30, 50} }

func partialShapes() []shape {
	var shapes []shape
	for _, depth := range []int{5, 10} {
		name := fmt.Sprintf("partial/depth=%d", depth)
		shapes = append(shapes, one(name, func(c *cell) row { return partial(c, name, depth, 0.1, 4000, passOn) }))
	}
	for _, depth := range []int{5, 10} {
		name := fmt.Sprintf("mapped/depth=%d", depth)
		shapes = append(shapes, one(name, func(c *cell) row { return partial(c, name, depth, 0.1, 4000, mapErrors) }))
	}
	for _, percent := range chartPercents() {
		name := fmt.Sprintf("chart/fail=%d%%", percent)
		shapes = append(shapes, one(name, func(c *cell) row { return partial(c, name, 5, float64(percent)/100, 2000, passOn) }))
	}
	return append(shapes, one("deep-random", deepRandom))
}

// mapErrors is the handler of a hop that returns every error as INTERNAL.
func mapErrors(next call) handler {
	return func(ctx context.Context, text string) error {
		if err := next(ctx, text); err != nil {
			return status.Error(codes.Internal, err.Error())
		}
		return nil
	}
}

// partial measures a leaf that fails a share of its calls.
func partial(c *cell, name string, depth int, share float64, requests int, middle func(call) handler) row {
	fates := newFate("leaf")
	ch := c.chainOf(depth, callPolicy{}, func(_ context.Context, text string) error {
		c.work()
		if fates.draw(text) < share {
			return errUnavailable
		}
		return nil
	}, middle)
	u := users{concurrent: 64, requests: c.size(requests, requests/2)}
	return ch.row(name, u.run(c.t.Context(), ch.user))
}

// deepRandom measures a chain in which each hop itself fails a share of its calls, half of them before and half of them
// after the hop's own call.
func deepRandom(c *cell) row {
	const share = 0.05
	leaf := newFate("leaf")
	hops := 0
	ch := c.chainOf(5, callPolicy{}, func(_ context.Context, text string) error {
		c.work()
		if leaf.draw(text) < share {
			return errUnavailable
		}
		return nil
	}, func(next call) handler {
		hops++
		fates := newFate(fmt.Sprintf("hop %d above the leaf", hops))
		return func(ctx context.Context, text string) error {
			d := fates.draw(text)
			if d < share/2 {
				return errUnavailable
			}
			if err := next(ctx, text); err != nil {
				return err
			}
			if d < share {
				return errUnavailable
			}
			return nil
		}
	})
	u := users{concurrent: 16, requests: c.size(4000, 2000), deadline: 10 * time.Second}
	return ch.row("deep-random", u.run(c.t.Context(), ch.user))
}
