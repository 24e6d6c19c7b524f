package fallback_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hopbound/hopbound/interceptors/fallback"
	"github.com/hopbound/hopbound/interceptors/internal/companiontest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/dynamicpb"
)

func TestInvalidOptionsAreAllReported(t *testing.T) {
	t.Parallel()
	const unknown, stream, list = "/none.Service/Method", companiontest.Watch, "/grpc.health.v1.Health/List"
	for name, opts := range map[string][]fallback.Option{
		"an option is nil":                {nil},
		"is unknown; import":              {fallback.For(unknown, fallback.Default(toDefault))},
		"streams have no":                 {fallback.For(stream, fallback.Default(toDefault))},
		"at least one step":               {fallback.For(check)},
		"has fallbacks already":           {fallback.For(check, fallback.Default(toDefault)), fallback.For(check, fallback.Default(toDefault))},
		"a step is nil":                   {fallback.For(check, nil)},
		"connection is nil":               {fallback.For(check, fallback.Target(nil))},
		"Target: the method is not decl":  {fallback.For(list, fallback.Target(&grpc.ClientConn{}))},
		"Cache: the method is not decl":   {fallback.For(list, fallback.Cache(time.Second, byService))},
		"Cache(0s): must be":              {fallback.For(check, fallback.Cache(0, byService))},
		"the key is nil":                  {fallback.For(check, fallback.Cache[request](time.Second, nil))},
		"has a cache already":             {fallback.For(check, fallback.Cache(time.Second, byService), fallback.Cache(time.Second, byService))},
		"the request is a grpc.health.v1": {fallback.For(check, fallback.Cache(time.Second, func(context.Context, response) string { return "" }))},
		"the response is a grpc.health":   {fallback.For(check, fallback.Default(func(context.Context, request, error) (request, error) { return nil, nil }))},                  //nolint:nilnil // never called
		"must be generated code":          {fallback.For(check, fallback.Default(func(context.Context, *dynamicpb.Message, error) (proto.Message, error) { return nil, nil }))}, //nolint:nilnil // never called
		"the function is nil":             {fallback.For(check, fallback.Default[request, response](nil))},
		"Codes: must be":                  {fallback.Codes(codes.Canceled)},
		"Reserve(-1ns)":                   {fallback.Reserve(-1)},
		"CacheEntries(0)":                 {fallback.CacheEntries(0)},
		"WithMeterProvider: nil":          {fallback.WithMeterProvider(nil)},
	} {
		_, err := fallback.New(append(opts, fallback.DeclareSafe(check))...)
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	_, err := fallback.New(fallback.Reserve(-1), fallback.CacheEntries(0), fallback.For(unknown, nil))
	var all interface{ Unwrap() []error }
	if !errors.As(err, &all) || len(all.Unwrap()) != 3 {
		t.Errorf("got %v", err)
	}
}

func BenchmarkPrimarySucceeds(b *testing.B) {
	interceptor := newFallback(b, fallback.For(check, fallback.Default(toDefault))).UnaryInterceptor()
	next := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return nil }
	req, reply := &healthpb.HealthCheckRequest{}, &healthpb.HealthCheckResponse{}
	ctx, cancel := context.WithTimeout(b.Context(), time.Hour)
	defer cancel()
	for name, method := range map[string]string{"fallback": check, "none": "/other"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = interceptor(ctx, method, req, reply, nil, next)
			}
		})
	}
}
