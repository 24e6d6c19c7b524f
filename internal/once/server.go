package once

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/internal/policy"
	"github.com/hopbound/hopbound/internal/request"
	"google.golang.org/grpc"
)

// Server runs the writes of a server once for each key. It is safe for concurrent use.
type Server struct {
	store      idempotency.Store // nil if keys are not looked at
	settings   *idempotency.Settings
	transactor idempotency.Transactor // the store, if it runs writes in transactions
	runs       sharedRuns
	sightings  *sightings

	sharing    sync.Once
	warnShared func() // that callers without an identity share their keys
}

// OnShared sets a function that WarnShared calls once.
func (s *Server) OnShared(warn func()) { s.warnShared = warn }

// WarnShared warns once if callers without an identity share their keys and no option says that this is intended.
func (s *Server) WarnShared() {
	if s.warnShared != nil && s.SharesKeys() {
		s.sharing.Do(s.warnShared)
	}
}

// New returns a server that keeps outcomes in the store. If the store is nil, every call runs.
func New(store idempotency.Store, settings *idempotency.Settings) (*Server, error) {
	s := &Server{store: store, settings: settings, sightings: newSightings()}
	var err error
	s.transactor, err = findTransactor(store)
	return s, err
}

// findTransactor returns the store if it runs writes in transactions, or nil. It is an error if
// the store has transactions of another version of package idempotency.
func findTransactor(store idempotency.Store) (idempotency.Transactor, error) {
	if t, ok := store.(interface{ Transactional() bool }); !ok || !t.Transactional() {
		return nil, nil //nolint:nilnil // none
	}
	t, ok := store.(idempotency.Transactor)
	if !ok {
		return nil, fmt.Errorf("WithIdempotency: %T has transactions, but does not implement idempotency.Transactor", store)
	}
	return t, nil
}

// Kind returns the name of the kind of the store, for metrics.
func (s *Server) Kind() string {
	if named, ok := s.store.(interface{ Kind() string }); ok {
		return named.Kind()
	}
	return "other"
}

// Stats returns the store if it has statistics, or nil.
func (s *Server) Stats() idempotency.Measured {
	store, _ := s.store.(idempotency.Measured)
	return store
}

// Stores reports whether the outcomes of a method are stored and outlive this process, so that
// callers may be told that its calls with a key are safe to retry. The method may be nil.
func (s *Server) Stores(m *Method) bool {
	if m == nil || m.unsupported != nil {
		return false
	}
	volatile, ok := s.store.(interface{ Volatile() bool })
	return !ok || !volatile.Volatile()
}

// Call is an incoming call.
type Call struct {
	Request     *request.Request
	Method      *Method // nil if calls of the method always run
	FullMethod  string
	Floor       time.Duration // a call with less time left is not run after it has waited; 0 is no floor
	Observe     bool          // run the call each time, and count what would have been replayed
	KeyExpected bool          // the caller only observes, and would have sent a key, so none is required
}

// Serve runs the handler: only once for the call's key, or each time if the call has no key. It also
// reports whether the result is that of another run.
func (s *Server) Serve(call *Call, req any, handler grpc.UnaryHandler) (reply any, replayed bool, err error) {
	if call.Observe {
		reply, err = s.observe(call, req, handler)
		return reply, false, err
	}
	if call.Method == nil {
		reply, err = handler(s.withoutStore(call), req)
		return reply, false, err
	}
	key, rejected := readKey(call, req)
	call.Request.Key = key
	if rejected != nil {
		call.Request.Telemetry.Rejected(call.Request, rejected.reason)
		return nil, false, rejected.err
	}
	if key == "" {
		reply, err = handler(s.withoutStore(call), req)
		return reply, false, err
	}
	c := claim{server: s, call: call, key: key}
	defer c.record()
	if err = c.prepare(req); err != nil {
		c.outcome = unsupported
		return nil, false, err
	}
	reply, err = c.once(req, handler)
	return reply, c.replayed, err
}

// Method says how the writes of a method are run once for each key.
type Method struct {
	idempotency.MethodSettings
	hash         uint64 // of the full name, as reports have it
	keyField     keyFieldDescriptor
	fingerprints *idempotency.Fingerprinter
	response     responseType
	unsupported  error // why outcomes cannot be stored; nil if they can
}

// Hash returns the first eight bytes of the SHA-256 of the full method.
func (m *Method) Hash() uint64 { return m.hash }

// NewMethod returns a method, or nil if the method's calls always run: there is no store, keys are
// off, or the method has no side effects.
func (s *Server) NewMethod(fullMethod string, level policy.Level, declared *policy.Declaration) *Method {
	if s.store == nil {
		return nil
	}
	if declared.Policy.Idempotency != policy.Unspecified {
		level = declared.Policy.Idempotency
	}
	m := &Method{MethodSettings: s.settings.ForMethod(fullMethod, declared.Apply), hash: policy.HashOf(fullMethod)}
	if m.Off || level == policy.NoSideEffects {
		return nil
	}
	m.unsupported = m.find(fullMethod)
	return m
}

// find looks up the descriptors and types of a method's messages.
func (m *Method) find(fullMethod string) error {
	d := policy.FindMethod(fullMethod)
	if d == nil {
		return errors.New("no linked protobuf file has its descriptor, which is needed to decode its response")
	}
	var err error
	if m.fingerprints, err = idempotency.NewFingerprinter(d.Input(), m.KeyField, m.Fingerprint...); err != nil {
		return err
	}
	if m.keyField, err = idempotency.FindKeyField(d.Input(), m.KeyField); err != nil {
		return err
	}
	m.response, err = findResponse(d)
	return err
}
