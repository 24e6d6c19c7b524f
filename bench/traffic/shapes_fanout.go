package main

import (
	"context"
	"fmt"
	"sync"

	"github.com/hopbound/hopbound/budget"
)

func fanOutShapes() []shape {
	var shapes []shape
	for _, kind := range []struct {
		width, requests int
		share           float64
	}{{20, 1000, 0.02}, {100, 400, 0.05}} {
		for _, order := range []string{"sequential", "parallel"} {
			name := fmt.Sprintf("fan-out-%d/%s", kind.width, order)
			shapes = append(shapes, one(name, func(c *cell) row {
				return fanOut(c, name, order == "parallel", kind.width, kind.requests, kind.share)
			}))
		}
	}
	return append(shapes,
		one(httpPages, func(c *cell) row {
			once := newFailOnce(0.1)
			return httpRoot(c, httpPages, once.check)
		}),
		one("http-root/any", func(c *cell) row {
			fates := newFate("leaf")
			return httpRoot(c, "http-root/any", func(text string) error {
				if fates.draw(text) < 0.1 {
					return errUnavailable
				}
				return nil
			})
		}))
}

// fanOut measures a gateway that makes many calls to a leaf for each request. A share of the calls fail once.
func fanOut(c *cell, name string, parallel bool, width, requests int, share float64) row {
	once := newFailOnce(share)
	ch := c.chainOf(2, callPolicy{}, func(_ context.Context, text string) error {
		c.work()
		return once.check(text)
	}, func(next call) handler {
		return func(ctx context.Context, text string) error { return callMany(ctx, next, text, width, parallel) }
	})
	u := users{concurrent: 16, requests: c.size(requests, requests/2)}
	return ch.row(name, u.run(c.t.Context(), ch.user))
}

// callMany makes n calls whose texts begin with text: all at once, or one after another until one fails.
func callMany(ctx context.Context, next call, text string, n int, parallel bool) error {
	if !parallel {
		for i := range n {
			if err := next(ctx, fmt.Sprintf("%s/%d", text, i)); err != nil {
				return err
			}
		}
		return nil
	}
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = next(ctx, fmt.Sprintf("%s/%d", text, i)) })
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// httpRoot measures pages that do not arrive by gRPC. Each makes nine calls, in three groups of three parallel calls.
func httpRoot(c *cell, name string, fail func(text string) error) row {
	leaf := c.serve(func(_ context.Context, text string) error {
		c.work()
		return fail(text)
	})
	b := budget.New()
	next := c.connect(callPolicy{budget: b}, leaf)
	u := users{concurrent: 16, requests: c.size(2000, 500)}
	o := u.run(c.t.Context(), func(ctx context.Context, text string) error {
		end := func(bool) {}
		if c.stack.name == hopbound {
			ctx, end = budget.NewRoot(ctx, b)
		}
		var err error
		for group := 0; group < 3 && err == nil; group++ {
			err = callMany(ctx, next, fmt.Sprintf("%s/%d", text, group), 3, true)
		}
		end(err == nil)
		return err
	})
	return newRow(name, o, leaf.calls.Load(), 0)
}
