package health

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
)

// Client is the settings of a client's connections. Make it with [NewClient].
type Client struct{ settings clientSettings }

// NewClient returns the settings of a client's connections. It returns all errors of the options, joined.
func NewClient(opts ...ClientOption) (*Client, error) {
	c := &Client{clientSettings{detect: 30 * time.Second, connect: 5 * time.Second, balancer: "round_robin"}}
	var errs []error
	for _, o := range opts {
		if o == nil {
			errs = append(errs, errors.New("an option is nil"))
			continue
		}
		errs = append(errs, o.applyToClient(&c.settings))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("health: %w", err)
	}
	return c, nil
}

// DialOptions returns the options that install the settings.
func (c *Client) DialOptions() []grpc.DialOption {
	ping, timeout := pings(c.settings.detect)
	pause := backoff.DefaultConfig
	pause.MaxDelay = c.settings.connect
	pause.BaseDelay = min(pause.BaseDelay, pause.MaxDelay)
	opts := append(make([]grpc.DialOption, 0, 3),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: ping, Timeout: timeout, PermitWithoutStream: true}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: pause, MinConnectTimeout: c.settings.connect}))
	if !c.settings.check {
		return opts
	}
	return append(opts, grpc.WithDefaultServiceConfig(fmt.Sprintf(
		`{"loadBalancingConfig": [{%q: {}}], "healthCheckConfig": {"serviceName": %q}}`, c.settings.balancer, c.settings.service)))
}

// pings returns after which silence a connection is pinged, and how long the answer may take.
func pings(detect time.Duration) (ping, timeout time.Duration) {
	const minPing = 10 * time.Second // gRPC's clients do not ping more often
	ping = max(minPing, detect*2/3)
	return ping, detect - ping
}

// Server is the health of a server, and the settings of its connections. It is safe for concurrent use. Make it with
// [NewServer]. It serves one grpc.Server.
type Server struct {
	settings serverSettings
	health   *health.Server
	ctx      context.Context //nolint:containedctx // of the checks and watches, until the server stops
	cancel   context.CancelFunc
	checks   sync.WaitGroup

	mu       sync.Mutex
	services []string
	ill      map[string][]string // components that are not healthy, and the services that need them; none for all
}

// NewServer returns a Server whose services are all SERVING. It returns all errors of the options, joined.
func NewServer(opts ...ServerOption) (*Server, error) {
	s := &Server{
		settings: serverSettings{detect: 30 * time.Second, age: 30 * time.Minute, grace: 5 * time.Minute, every: 5 * time.Second},
		health:   health.NewServer(),
		ill:      map[string][]string{},
	}
	var errs []error
	for _, o := range opts {
		if o == nil {
			errs = append(errs, errors.New("an option is nil"))
			continue
		}
		errs = append(errs, o.applyToServer(&s.settings))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("health: %w", err)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// ServerOptions returns the options that install the settings of connections.
func (s *Server) ServerOptions() []grpc.ServerOption {
	ping, timeout := pings(s.settings.detect)
	return []grpc.ServerOption{
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: ping, Timeout: timeout, MaxConnectionAge: s.settings.age, MaxConnectionAgeGrace: s.settings.grace,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}
}

// Register registers gRPC's health service and starts the checks. Call it after all services are registered, and before
// the server serves. End the checks with [Server.Stop].
func (s *Server) Register(srv *grpc.Server) {
	s.mu.Lock()
	for name := range srv.GetServiceInfo() {
		s.services = append(s.services, name)
	}
	s.update()
	s.mu.Unlock()
	healthpb.RegisterHealthServer(srv, &service{s.health, s})
	for _, c := range s.settings.checks {
		s.checks.Go(func() { s.check(c) })
	}
}

// check checks a component until the server stops.
func (s *Server) check(c check) {
	ticker := time.NewTicker(s.settings.every)
	defer ticker.Stop()
	for {
		ctx, cancel := context.WithTimeout(s.ctx, s.settings.every)
		err := c.run(ctx)
		cancel()
		if s.ctx.Err() != nil {
			return
		}
		s.Report(c.component, err == nil, c.services...)
		select {
		case <-ticker.C:
		case <-s.ctx.Done():
			return
		}
	}
}

// Report says whether a component is healthy, such as a store, a circuit breaker or the level of degradation. While it is
// not, the services that need it are NOT_SERVING, or all services and the server as a whole if none is given.
//
// Take care with components that all servers share: if their breaker opens at all servers, no server is SERVING.
func (s *Server) Report(component string, healthy bool, services ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if healthy {
		delete(s.ill, component)
	} else {
		s.ill[component] = slices.Clone(services)
	}
	s.update()
}

// update sets the status of all services. The caller holds the lock.
func (s *Server) update() {
	for _, name := range append([]string{""}, s.services...) {
		serving := healthpb.HealthCheckResponse_SERVING
		for _, needed := range s.ill {
			if len(needed) == 0 || slices.Contains(needed, name) {
				serving = healthpb.HealthCheckResponse_NOT_SERVING
			}
		}
		s.health.SetServingStatus(name, serving)
	}
}

// Stop stops the server: it says NOT_SERVING, waits for [LameDuck], and lets calls finish until ctx ends. It returns an
// error if calls were cut then. It may be called more than once.
func (s *Server) Stop(ctx context.Context, srv *grpc.Server) error {
	s.health.Shutdown()
	timer := time.NewTimer(s.settings.lameDuck)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	s.cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.GracefulStop()
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		srv.Stop()
		<-done
		err = fmt.Errorf("health: the server was stopped while calls were running: %w", context.Cause(ctx))
	}
	s.checks.Wait()
	return err
}

// service is gRPC's health service. Its watches end when the server stops, so that it does not wait for them.
type service struct {
	*health.Server
	stopping *Server
}

// Watch sends the status of a service whenever it changes.
func (s *service) Watch(req *healthpb.HealthCheckRequest, ss grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	ctx, cancel := context.WithCancel(ss.Context())
	defer cancel()
	defer context.AfterFunc(s.stopping.ctx, cancel)()
	return s.Server.Watch(req, &watch{ss, ctx})
}

type watch struct {
	grpc.ServerStreamingServer[healthpb.HealthCheckResponse]
	ctx context.Context //nolint:containedctx // of the stream
}

// Context returns the context of the watch.
func (w *watch) Context() context.Context { return w.ctx }
