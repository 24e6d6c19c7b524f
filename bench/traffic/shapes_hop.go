package main

import (
	"context"
	"strings"

	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// pushbackKey is the trailer of gRFC A6 with which a server says not to retry.
const pushbackKey = "grpc-retry-pushback-ms"

func hopShapes() []shape {
	shapes := make([]shape, 0, 4)
	for _, variant := range []string{"copies", "does-not-copy", "copies,native", "does-not-copy,native"} {
		shapes = append(shapes, one("plain-hop/"+variant, func(c *cell) row { return plainHop(c, variant) }))
	}
	return shapes
}

// plainHop measures one request to a leaf that is down, through a hop that does not use the stack. It returns the
// worst of several runs.
func plainHop(c *cell, variant string) row {
	copies := strings.HasPrefix(variant, "copies")
	var plain []grpc.DialOption
	if strings.HasSuffix(variant, ",native") {
		plain = append(plain, serviceConfig(nativeRetryPolicy))
	} else {
		plain = append(plain, grpc.WithDisableRetry())
	}
	var worst row
	for range c.size(20, 10) {
		if r := oneRequest(c, "plain-hop/"+variant, plain, copies); r.LeafCalls >= worst.LeafCalls {
			worst = r
		}
	}
	return worst
}

func oneRequest(c *cell, name string, plain []grpc.DialOption, copies bool) row {
	ch := &chain{hops: make([]*service, 4)}
	ch.hops[3] = c.serve(func(context.Context, string) error {
		c.work()
		return errUnavailable
	})
	ch.hops[2] = c.serve(passOn(c.connect(callPolicy{}, ch.hops[3])))
	next := testv1.NewTestServiceClient(c.dialWith(plain, ch.hops[2]))
	ch.hops[1] = c.start(&service{handle: func(ctx context.Context, text string) error {
		var trailer metadata.MD
		_, err := next.Idempotent(ctx, &testv1.IdempotentRequest{Text: text}, grpc.Trailer(&trailer))
		if pushback := trailer.Get(pushbackKey); err != nil && copies && len(pushback) > 0 {
			_ = grpc.SetTrailer(ctx, metadata.MD{pushbackKey: pushback})
		}
		return err
	}}, false)
	ch.hops[0] = c.serve(passOn(c.connect(callPolicy{}, ch.hops[1])))
	ch.user = c.connect(callPolicy{}, ch.hops[0])
	u := users{concurrent: 1, requests: 1}
	return ch.row(name, u.run(c.t.Context(), ch.user))
}
