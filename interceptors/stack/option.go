package stack

import (
	"context"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/interceptors/breaker"
	"github.com/hopbound/hopbound/interceptors/bulkhead"
	"github.com/hopbound/hopbound/interceptors/degrade"
	"github.com/hopbound/hopbound/interceptors/fallback"
	"github.com/hopbound/hopbound/interceptors/fault"
	"github.com/hopbound/hopbound/interceptors/ratelimit"
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"
)

// ClientPart is a part of a client's stack.
type ClientPart interface{ client() *part }

// ServerPart is a part of a server's stack.
type ServerPart interface{ server() *part }

// Part is a part of a client's or a server's stack.
type Part interface {
	ClientPart
	ServerPart
}

// part is a part at one side. It is nil if what it is made of is nil.
type part struct {
	name    string
	streams bool // it applies to streams too
	dial    []grpc.DialOption
	serve   []grpc.ServerOption
}

// Names of parts, in error messages and in what a stack reports.
const (
	nameFallback = "fallback"
	nameRetry    = "retry and budget"
	nameServe    = "deadline, budget and key"
	nameBreaker  = "breaker"
	nameBulkhead = "bulkhead"
	nameTimeout  = "attempt timeout"
	nameRate     = "rate limit"
	nameDegrade  = "degrade"
	nameFault    = "fault"
	nameTrace    = "trace"
)

// clientOrder and serverOrder are the orders of parts.
func clientOrder() []string {
	return []string{nameFallback, nameRetry, nameBreaker, nameBulkhead, nameTimeout, nameRate, nameFault, nameTrace}
}

func serverOrder() []string {
	return []string{nameTrace, nameServe, nameRate, nameDegrade, nameBulkhead, nameFault}
}

type clientPart func() *part

func (p clientPart) client() *part { return p() }

type serverPart func() *part

func (p serverPart) server() *part { return p() }

type bothParts struct {
	clientPart
	serverPart
}

// Fallback serves unary calls that have failed.
func Fallback(f *fallback.Fallback) ClientPart {
	return clientPart(func() *part {
		if f == nil {
			return nil
		}
		return &part{name: nameFallback, dial: f.DialOptions()}
	})
}

// Retry is Hopbound's client. A client's stack must have it.
func Retry(c *interceptors.Client) ClientPart {
	return clientPart(func() *part {
		if c == nil {
			return nil
		}
		return &part{name: nameRetry, streams: true, dial: c.DialOptions()}
	})
}

// Serve is Hopbound's server. A server's stack must have it.
func Serve(s *interceptors.Server) ServerPart {
	return serverPart(func() *part {
		if s == nil {
			return nil
		}
		return &part{name: nameServe, streams: true, serve: s.ServerOptions()}
	})
}

// Breaker refuses attempts to a target that fails.
func Breaker(b *breaker.Breaker) ClientPart {
	return clientPart(func() *part {
		if b == nil {
			return nil
		}
		return &part{name: nameBreaker, streams: true, dial: b.DialOptions()}
	})
}

// Bulkhead bounds how many attempts, or calls of a server, run at the same time.
func Bulkhead(b *bulkhead.Bulkhead) Part {
	if b == nil {
		return both(nil)
	}
	return both(&part{name: nameBulkhead, streams: b.Streams(), dial: b.DialOptions(), serve: b.ServerOptions()})
}

// AttemptTimeout bounds the time of each attempt of a unary call, without the time that it waits in the bulkhead. It must
// be positive. Use it instead of the policy's AttemptTimeout if attempts may wait in a bulkhead. The policy must then list
// DEADLINE_EXCEEDED; otherwise an attempt that timed out is not retried.
func AttemptTimeout(d time.Duration) ClientPart {
	return clientPart(func() *part {
		if d <= 0 {
			return nil
		}
		limit := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			if until, ok := ctx.Deadline(); ok && time.Until(until) <= d {
				return invoker(ctx, method, req, reply, cc, opts...)
			}
			ctx, cancel := context.WithTimeout(ctx, d)
			defer cancel()
			return invoker(ctx, method, req, reply, cc, opts...)
		}
		return &part{name: nameTimeout, dial: []grpc.DialOption{grpc.WithChainUnaryInterceptor(limit)}}
	})
}

// RateLimit limits the rate of attempts, or of calls of a server.
func RateLimit(l *ratelimit.Limiter) Part {
	if l == nil {
		return both(nil)
	}
	return both(&part{name: nameRate, streams: true, dial: l.DialOptions(), serve: l.ServerOptions()})
}

// Degrade turns features and methods of a server off.
func Degrade(c *degrade.Controller) ServerPart {
	return serverPart(func() *part {
		if c == nil {
			return nil
		}
		return &part{name: nameDegrade, streams: true, serve: c.ServerOptions()}
	})
}

// Fault injects faults.
func Fault(f *fault.Faults) Part {
	if f == nil {
		return both(nil)
	}
	return both(&part{name: nameFault, streams: true, dial: f.DialOptions(), serve: f.ServerOptions()})
}

// Trace is a stats handler, such as otelgrpc's.
func Trace(h stats.Handler) Part {
	if h == nil {
		return both(nil)
	}
	return both(&part{name: nameTrace, streams: true, dial: []grpc.DialOption{grpc.WithStatsHandler(h)}, serve: []grpc.ServerOption{grpc.StatsHandler(h)}})
}

func both(p *part) Part {
	side := func() *part { return p }
	return bothParts{side, side}
}
