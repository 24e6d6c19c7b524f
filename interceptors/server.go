package interceptors

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hopbound/hopbound/deadline"
	"github.com/hopbound/hopbound/idempotency"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// clockLimit is how many senders' clocks a server knows base delays of.
const clockLimit = 4096

// Server receives the incoming calls of a process: it rejects what has expired,
// holds handlers to the time that their callers will still wait, hands the
// caller's tokens to the handler's own calls, and reports what was used of
// them. It is safe for concurrent use.
type Server struct {
	serverSettings

	begun    time.Time // what monotonic times count from
	declared declarations
	delays   *deadline.Delays

	modes   modes
	methods cache[method]
	floors  cache[deadline.Floor]

	serverSeries [modeCount]cache[serverSeries]

	trace *tracing // nil if there is no provider
	count *serverCounters

	transactor idempotency.Transactor // the store, if it runs writes in transactions
	sightings  *sightings             // what was observed of keys
	runs       sharedRuns             // of writes
	storeLog   storeLog

	uncuttable sync.Once // logs that a stream could not be cut

	twice     reportedOnce // that the interceptors are installed twice
	storeKind string       // as metrics name it
	volatile  bool         // the store's records end with the process, so that callers are not told of them
}

// NewServer returns a server. It returns all that is wrong with the options,
// joined.
func NewServer(opts ...ServerOption) (*Server, error) {
	s := &Server{begun: time.Now(), delays: deadline.NewDelays(clockLimit), sightings: newSightings()}
	for i, opt := range opts {
		if isNil(opt) {
			s.errs = append(s.errs, nilOption(i))
			continue
		}
		opt.applyServer(&s.serverSettings)
	}
	s.modes.table.Store(&modeTable{all: s.firstMode})
	s.storeKind = "other"
	if named, ok := s.store.(interface{ Kind() string }); ok {
		s.storeKind = named.Kind()
	}
	if v, ok := s.store.(interface{ Volatile() bool }); ok {
		s.volatile = v.Volatile()
	}
	var errs [7]error
	s.trace = newTracing(&s.settings)
	s.count, errs[0] = newServerCounters(&s.settings, s.storeKind)
	s.declared, errs[1] = readDeclarations(protoregistry.GlobalFiles)
	errs[2] = s.checkFloors()
	s.transactor, errs[3] = s.findTransactor()
	errs[4] = s.checkKeyed()
	errs[5] = s.observeStore()
	errs[6] = s.observeClocks()
	if err := errors.Join(append(s.errs, errs[:]...)...); err != nil {
		return nil, err
	}
	return s, nil
}

// findTransactor returns the store if it runs writes in transactions, or nil. A store whose
// transactions the server cannot use, because one of the two is of another version, is an
// error.
func (s *Server) findTransactor() (idempotency.Transactor, error) {
	if t, ok := s.store.(interface{ Transactional() bool }); !ok || !t.Transactional() {
		return nil, nil //nolint:nilnil // none
	}
	t, ok := s.store.(idempotency.Transactor)
	if !ok {
		return nil, fmt.Errorf("WithIdempotency: %T has transactions, and is no idempotency.Transactor", s.store)
	}
	return t, nil
}

// checkFloors returns an error if no call could ever be served, because it would
// need more time than it is given.
func (s *Server) checkFloors() error {
	var errs []error
	for _, limit := range [...]struct {
		name string
		d    time.Duration
	}{{"WithMaxDeadline", s.limits.MaxDeadline}, {"WithDefaultDeadline", s.limits.DefaultDeadline}} {
		if limit.d > 0 && s.limits.Floor > limit.d {
			errs = append(errs, fmt.Errorf("WithFloor(%v): more than %s(%v), which refuses every call", s.limits.Floor, limit.name, limit.d))
		}
	}
	if most := s.limits.MaxDeadline; most > 0 && s.limits.DefaultDeadline > most {
		errs = append(errs, fmt.Errorf("WithDefaultDeadline(%v): more than WithMaxDeadline(%v)", s.limits.DefaultDeadline, most))
	}
	return errors.Join(errs...)
}

// ServerOptions returns what to make a server with: the interceptors. Those in
// options before them run before them; see [Server.UnaryInterceptor].
func (s *Server) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(s.UnaryInterceptor()),
		grpc.ChainStreamInterceptor(s.StreamInterceptor()),
	}
}

// UnaryInterceptor returns the interceptor of unary calls, for chains that are
// put together by hand. The interceptor that identifies the caller and checks what it
// may do comes before it: with [WithIdempotency], a call may be answered without what
// comes after. All other interceptors come after it.
func (s *Server) UnaryInterceptor() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (reply any, err error) {
		if s.installedTwice(ctx, info.FullMethod) {
			return handler(ctx, req)
		}
		in := s.admit(ctx, info.FullMethod, true, s.adaptiveFloor)
		ended := false
		defer func() {
			if !ended { // it may yet be recovered, and then replied to
				in.report(errPanicked)
			}
		}()
		if err = in.refusal; err == nil {
			reply, err = in.serve(req, handler)
		}
		ended = true
		in.report(err)
		return reply, err
	}
}

// errPanicked stands for the error of what panicked, or ended its goroutine.
var errPanicked = errors.New("panicked")

// incoming is one call at its server. One goroutine uses it, but for the request
// in it.
type incoming struct {
	*Server
	request request // whose context is the handler's
	mode    Mode

	cancel  context.CancelFunc
	method  *method
	floor   *deadline.Floor // nil if it is not learned
	arrived time.Time
	waited  time.Duration // how long its caller waits, from then on
	refusal error         // what is returned instead of running the handler

	outside     bool // the caller is not trusted
	keyExpected bool // it only observes, and would have sent a key, so that none is required of it
	replayed    bool // nor did the handler run if this is set

	reported atomic.Bool // the caller was told in the trailer

	span  trace.Span // nil if it is not recorded
	owned bool       // the span is ours to end
}
