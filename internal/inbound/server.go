package inbound

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hopbound/hopbound/deadline"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/internal/cache"
	"github.com/hopbound/hopbound/internal/once"
	"github.com/hopbound/hopbound/internal/policy"
	"github.com/hopbound/hopbound/internal/request"
	"github.com/hopbound/hopbound/internal/telemetry"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// maxClocks is the number of senders whose base delays a server remembers.
const maxClocks = 4096

// Config is the configuration of a [Server].
type Config struct {
	Telemetry     telemetry.Settings
	Observe       bool                    // the first mode of all methods
	Edge          []func(*peer.Peer) bool // a caller for which any returns true is not trusted
	Limits        policy.Limits
	MethodLimits  map[string]policy.Limits // by name, as in policy.ByName
	AdaptiveFloor bool
	Store         idempotency.Store // nil if keys are not looked at
	Keys          *idempotency.Settings
}

// Server receives the incoming calls of a process. It is safe for concurrent use.
type Server struct {
	Modes policy.Modes

	config    Config
	started   time.Time // from which monotonic times count
	declared  policy.Declarations
	delays    *deadline.Delays
	methods   cache.Names[method]
	floors    cache.Names[deadline.Floor]
	once      *once.Server
	telemetry *telemetry.Server
}

// New returns a server, and the errors of the configuration, joined.
func New(config Config) (*Server, error) {
	s := &Server{config: config, started: time.Now(), delays: deadline.NewDelays(maxClocks)}
	var errs [7]error
	if config.Observe {
		errs[0] = s.Modes.Set(true, nil)
	}
	s.once, errs[1] = once.New(config.Store, config.Keys)
	s.telemetry, errs[2] = telemetry.NewServer(&s.config.Telemetry, s.once.Kind())
	s.declared, errs[3] = policy.ReadDeclarations(protoregistry.GlobalFiles)
	errs[4] = config.Limits.ValidateServer()
	errs[5] = s.once.CheckOptions(s.keyed, len(config.Edge) > 0)
	errs[6] = telemetry.ObserveClocks(&s.config.Telemetry, s, s.delays.Forgotten)
	err := errors.Join(errs[:]...)
	if s.telemetry != nil {
		s.once.OnShared(s.telemetry.KeysShared)
	}
	if store := s.once.Stats(); store != nil {
		err = errors.Join(err, telemetry.ObserveStore(&s.config.Telemetry, s, s.once.Kind(), store))
	}
	return s, err
}

// Check returns the errors that prevent outcomes of registered methods from being stored, joined.
func (s *Server) Check(services map[string]grpc.ServiceInfo) error {
	s.once.WarnShared()
	return s.once.CheckServices(s.keyed, services)
}

// method is what a server knows of a method before a call arrives.
type method struct {
	full      string // /service/method
	telemetry *telemetry.Method
	declared  policy.Declaration
	limits    policy.Limits
	floor     time.Duration // calls with less time left are rejected; 0 is no floor
	keyed     *once.Method  // nil if calls of the method always run
}

// methodOf returns a method. It does not keep a method that is neither registered nor linked in,
// because callers of a server with a handler for unknown services can make up any name.
func (s *Server) methodOf(fullMethod string, registered bool) *method {
	if registered || policy.FindMethod(fullMethod) != nil {
		return s.methods.Get(fullMethod, s.newMethod)
	}
	return s.newMethod(fullMethod)
}

func (s *Server) newMethod(fullMethod string) *method {
	descriptor, declared := policy.FindMethod(fullMethod), s.declared[fullMethod]
	m := &method{
		full:      fullMethod,
		telemetry: s.telemetry.NewMethod(strings.TrimPrefix(fullMethod, "/"), descriptor != nil),
		declared:  declared,
		limits:    s.config.Limits.ForMethod(fullMethod, s.config.MethodLimits),
		keyed:     s.once.NewMethod(fullMethod, policy.DeclaredLevel(descriptor), &declared),
	}
	m.floor = max(m.limits.Floor, declared.Floor)
	return m
}

func (s *Server) keyed(fullMethod string) *once.Method { return s.newMethod(fullMethod).keyed }

// call is one incoming call. One goroutine uses it, except for its request.
type call struct {
	server  *Server
	request request.Request // the context of the handler
	method  *method
	observe bool
	keyed   once.Call // the argument of package once for a unary call

	cancel    context.CancelFunc // of the deadline; nil if it is gRPC's
	floor     *deadline.Floor    // nil if it is not learned
	arrived   time.Time
	waits     time.Duration // how long the caller waits, from arrived; unlimited if it has no deadline
	rejection error         // returned without running the handler

	outside     bool // the caller is not trusted
	keyExpected bool // the caller only observes, and would have sent a key
	replayed    bool // the outcome is that of an earlier call

	ended    bool        // report has been called
	reported atomic.Bool // the trailer is set
}

// Stores reports whether the outcome of a call with a key is stored.
func (s *Server) Stores(fullMethod string) bool {
	return !s.Modes.Observes(fullMethod) && s.methodOf(fullMethod, false).keyed != nil
}

// UnaryInterceptor returns the interceptor of unary calls.
func (s *Server) UnaryInterceptor() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (reply any, err error) {
		if s.installedTwice(ctx) {
			return handler(ctx, req)
		}
		c := s.admit(ctx, info.FullMethod, true, s.config.AdaptiveFloor)
		defer c.reportPanic()
		if err = c.rejection; err == nil {
			c.keyed = once.Call{
				Request: &c.request, Method: c.method.keyed, FullMethod: c.method.full, Floor: c.method.floor,
				Observe: c.observe, KeyExpected: c.keyExpected,
			}
			reply, c.replayed, err = s.once.Serve(&c.keyed, req, handler)
		}
		c.report(err)
		return reply, err
	}
}

// installedTwice reports whether an incoming call has passed an interceptor of Hopbound before. A
// call with a key would otherwise wait for itself.
func (s *Server) installedTwice(ctx context.Context) bool {
	outer := request.Any(ctx)
	if outer == nil {
		return false
	}
	s.telemetry.InstalledTwice(ctx, &outer.Telemetry)
	return true
}
