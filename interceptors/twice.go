package interceptors

import (
	"context"
	"log/slog"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"google.golang.org/grpc"
)

// attrTwice is set on the span of a call whose interceptors are installed twice.
const attrTwice = attribute.Key("hopbound.installed_twice")

// installedTwice reports whether a call comes from an attempt of the same call: the
// interceptors of one [Client] or of two are in one chain. The inner ones pass it
// through. Without that, three attempts of three would be nine.
//
// An attempt's context also reaches the application, as that of a stream. That it is
// being made there tells the one from the other.
func (c *Client) installedTwice(ctx context.Context, fullMethod string, cc *grpc.ClientConn) bool {
	outer, ok := ctx.Value(attemptKey{}).(*attemptContext)
	if !ok || !outer.attempt.making.Load() || outer.call.conn != cc || outer.call.fullMethod != fullMethod {
		return false
	}
	if outer.call.span != nil {
		outer.call.span.SetAttributes(attrTwice.Bool(true))
	}
	if c.count != nil {
		c.count.installedTwice(ctx, outer.call.method)
	}
	c.twice.report(ctx, c.log(), installedTwice, sideClient, fullMethod)
	return true
}

// installedTwice reports whether an incoming call has passed another [Server]'s
// interceptor, or this one's, before. A keyed call would wait for itself.
func (s *Server) installedTwice(ctx context.Context, fullMethod string) bool {
	outer, ok := ctx.Value(requestKey{}).(*request)
	if !ok {
		return false
	}
	m := s.methodOf(fullMethod, false)
	if outer.span != nil {
		outer.span.SetAttributes(attrTwice.Bool(true))
	}
	if s.count != nil {
		s.count.installedTwice(ctx, m)
	}
	s.twice.report(ctx, s.log(), installedTwice, sideServer, fullMethod)
	return true
}

const installedTwice = "the interceptors are installed twice, and the inner ones pass calls through"

// reportedOnce logs something the first time only.
type reportedOnce struct{ once sync.Once }

func (r *reportedOnce) report(ctx context.Context, log *slog.Logger, what, side, fullMethod string) {
	r.once.Do(func() { log.WarnContext(ctx, "hopbound: "+what, "side", side, "method", fullMethod) })
}
