package main

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
)

const (
	slowSiblings = "slow-sibling"
	httpPages    = "http-root"
)

func siblingShapes() []shape {
	return []shape{one(slowSiblings, slowSibling), one("held-watch", heldWatch)}
}

// slowSibling measures a gateway that makes a slow call and, while it runs, a quick call. One quick call in twenty fails
// once.
func slowSibling(c *cell) row {
	once := newFailOnce(0.05)
	ch := c.chainOf(2, callPolicy{}, func(_ context.Context, text string) error {
		if strings.HasPrefix(text, "slow/") {
			time.Sleep(200 * time.Millisecond)
			return nil
		}
		c.work()
		return once.check(text)
	}, func(next call) handler {
		return func(ctx context.Context, text string) error {
			var slow error
			var wait sync.WaitGroup
			wait.Go(func() { slow = next(ctx, "slow/"+text) })
			time.Sleep(20 * time.Millisecond)
			quick := next(ctx, "quick/"+text)
			wait.Wait()
			if quick != nil {
				return quick
			}
			return slow
		}
	})
	u := users{concurrent: 32, requests: 320}
	return ch.row(slowSiblings, u.run(c.t.Context(), ch.user))
}

// heldWatch measures a gateway that holds a stream to a leaf and makes lookups at the same time. Every fifth lookup
// fails once. The requests are made one after another. The row counts lookups, not requests.
func heldWatch(c *cell) row {
	const streams, lookups = 20, 30
	once := newFailOnce(1)
	leaf := c.start(&service{
		handle: func(_ context.Context, text string) error {
			c.work()
			if _, i, _ := strings.Cut(text, "/"); len(i) > 0 && strings.ContainsAny(i[len(i)-1:], "49") {
				return once.check(text)
			}
			return nil
		},
		watch: sendEvery(5 * time.Millisecond),
	}, true)
	conn := c.dial(callPolicy{}, leaf)
	next, watcher := unary(conn), testv1.NewTestServiceClient(conn)
	var n counter
	gateway := c.serve(func(ctx context.Context, text string) error {
		watching, stop := context.WithCancel(ctx)
		var held sync.WaitGroup
		defer held.Wait()
		defer stop()
		watch, err := watcher.Watch(watching, &testv1.WatchRequest{})
		if err == nil {
			_, err = watch.Recv()
		}
		if err != nil {
			return err
		}
		held.Go(func() {
			for err := error(nil); err == nil; {
				_, err = watch.Recv()
			}
		})
		for i := range lookups {
			time.Sleep(10 * time.Millisecond)
			n.add(next(ctx, text+"/"+strconv.Itoa(i)))
		}
		return nil
	})
	u := users{concurrent: 1, requests: streams}
	u.run(c.t.Context(), c.connect(callPolicy{}, gateway))
	return newRow("held-watch", n.outcome(), leaf.calls.Load(), gateway.calls.Load())
}

// sendEvery is a watch that sends a message at each interval.
func sendEvery(d time.Duration) func(grpc.ServerStreamingServer[testv1.WatchResponse]) error {
	return func(stream grpc.ServerStreamingServer[testv1.WatchResponse]) error {
		for pause(stream.Context(), d) {
			if err := stream.Send(&testv1.WatchResponse{}); err != nil {
				return err
			}
		}
		return stream.Context().Err()
	}
}
