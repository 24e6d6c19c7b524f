package interceptors

import (
	"context"
	"errors"
	"time"

	"github.com/hopbound/hopbound/deadline"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
)

// clockLimit is how many senders' clocks a server knows base delays of.
const clockLimit = 4096

// Server receives the incoming calls of a process: it rejects what has expired,
// holds handlers to the time that their callers will still wait, hands the
// caller's tokens to the handler's own calls, and reports what was used of
// them. It is safe for concurrent use.
type Server struct {
	serverSettings

	begun  time.Time // what monotonic times count from
	delays *deadline.Delays

	methods cache[method]
	floors  cache[deadline.Floor]

	trace *tracing // nil if there is no provider
	count *counters
}

// NewServer returns a server. It returns all that is wrong with the options,
// joined.
func NewServer(opts ...ServerOption) (*Server, error) {
	s := &Server{begun: time.Now(), delays: deadline.NewDelays(clockLimit)}
	for _, opt := range opts {
		if opt != nil {
			opt.applyServer(&s.serverSettings)
		}
	}
	var err error
	s.trace = newTracing(&s.settings)
	s.count, err = newCounters(&s.settings)
	if err := errors.Join(append(s.errs, err)...); err != nil {
		return nil, err
	}
	return s, nil
}

// ServerOptions returns what to make a server with: the interceptor.
func (s *Server) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.ChainUnaryInterceptor(s.UnaryInterceptor())}
}

// UnaryInterceptor returns the interceptor of unary calls, for chains that are
// put together by hand. Put it first.
func (s *Server) UnaryInterceptor() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (reply any, err error) {
		in := s.admit(ctx, info.FullMethod)
		ended := false
		defer func() {
			if !ended { // the handler panicked
				in.close(errPanicked)
			}
		}()
		if err = in.refusal; err == nil {
			reply, err = handler(&in.ctx, req)
		}
		ended = true
		in.report(err)
		return reply, err
	}
}

// errPanicked stands for the error of a handler that panicked.
var errPanicked = errors.New("the handler panicked")

// incoming is one unary call at its server. One goroutine uses it, but for the
// request in it.
type incoming struct {
	*Server
	request

	ctx     requestContext // the handler's
	cancel  context.CancelFunc
	method  *method
	floor   *deadline.Floor // nil if it is not learned
	arrived time.Time
	hop     bool  // the caller leased tokens, even if none
	refusal error // what is returned instead of running the handler

	span  trace.Span // nil if it is not recorded
	owned bool       // the span is ours to end
}
