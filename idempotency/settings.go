package idempotency

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Settings say how a server uses a store. [NewSettings] makes them from options. They must not be changed
// afterwards. Settings are for authors of other transports; the options of the same names document the fields.
type Settings struct {
	// Tenant returns the tenant of a call. Nil is the transport identity.
	Tenant func(ctx context.Context) string
	Shared bool // callers may share their keys; see SharedKeys

	Lease        time.Duration // of a claim; the server extends it while the handler runs
	StoreTimeout time.Duration // of a step of the store
	MaxWait      time.Duration // for another run of the same write; 0 is no bound but the call's deadline
	MaxOutcome   int           // the size of an encoded outcome, in bytes
	Codec        Codec
	ChildSecret  []byte // nil is none

	all     MethodSettings
	methods map[string]methodOptions
}

// MethodSettings are the settings that can differ from method to method. They are for authors of other transports;
// the options that set the fields document them.
type MethodSettings struct {
	Off         bool          // keys are ignored
	KeyRequired bool          // a call without a key is refused
	KeyField    string        // the field of the request that may hold the key; empty is none
	Retention   time.Duration // of outcomes
	Fingerprint []string      // the fields that make up the fingerprint; empty is all
	Codes       []codes.Code  // of failures that are stored as outcomes without being declared by Final
	Reruns      int           // of a handler after a transaction conflict
	Aliases     []string      // former full names of the response message
}

// Option sets how a server uses a store.
type Option interface{ applySettings(s *settingsBuilder) }

// MethodOption is an [Option] that can also be set for one method, with [ForMethod].
type MethodOption interface {
	Option
	applyMethod(m *MethodSettings) error
}

type settingsBuilder struct {
	Settings
	errs []error
}

type option func(s *Settings) error

func (f option) applySettings(s *settingsBuilder) { s.errs = append(s.errs, f(&s.Settings)) }

type methodOption func(m *MethodSettings) error

func (f methodOption) applySettings(s *settingsBuilder)    { s.errs = append(s.errs, f(&s.all)) }
func (f methodOption) applyMethod(m *MethodSettings) error { return f(m) }

type methodOptions []MethodOption

// DefaultLease is the lease of a claim unless [LeaseTime] sets another.
const DefaultLease = 10 * time.Second

// DefaultCodes returns the codes of failures that are stored as outcomes unless [Codes] sets others:
// INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, FAILED_PRECONDITION, OUT_OF_RANGE and UNIMPLEMENTED. A retry would
// get such a failure again. To add a code, pass it and the result of DefaultCodes to [Codes].
func DefaultCodes() []codes.Code {
	return []codes.Code{
		codes.InvalidArgument, codes.NotFound, codes.AlreadyExists,
		codes.FailedPrecondition, codes.OutOfRange, codes.Unimplemented,
	}
}

// NewSettings returns the settings for the options, and the errors of all invalid options, joined. It is for
// authors of other transports; others pass the options to the server.
func NewSettings(opts ...Option) (*Settings, error) {
	b := settingsBuilder{Settings: Settings{
		Lease: DefaultLease, StoreTimeout: 2 * time.Second, MaxOutcome: 1 << 20,
		all:     MethodSettings{Retention: 24 * time.Hour, Codes: DefaultCodes()},
		methods: map[string]methodOptions{},
	}}
	for i, opt := range opts {
		if opt == nil {
			b.errs = append(b.errs, fmt.Errorf("option %d is nil", i+1))
			continue
		}
		opt.applySettings(&b)
	}
	return &b.Settings, errors.Join(b.errs...)
}

// Methods returns the names that were passed to the option [ForMethod], sorted.
func (s *Settings) Methods() []string { return slices.Sorted(maps.Keys(s.methods)) }

// ForMethod returns the settings of a method, given its full name. It starts from the options for all methods.
// Then it calls declare, unless that is nil, which sets what the method's proto file declares. Last, it applies
// the options of [ForMethod].
func (s *Settings) ForMethod(fullMethod string, declare func(*MethodSettings)) MethodSettings {
	m := s.all
	if declare != nil {
		declare(&m)
	}
	service := fullMethod[:strings.LastIndexByte(fullMethod, '/')+1]
	for _, name := range [...]string{service, fullMethod} {
		for _, opt := range s.methods[name] {
			_ = opt.applyMethod(&m) // NewSettings has reported its error
		}
	}
	return m
}

// ForMethod sets options for one method, by its full name ("/shop.v1.Orders/Place"), or for all methods of a
// service ("/shop.v1.Orders/"). These options override the method's proto file, and those of a method override
// those of its service.
func ForMethod(name string, opts ...MethodOption) Option {
	return forMethod{name: name, opts: slices.Clone(opts)}
}

type forMethod struct {
	name string
	opts methodOptions
}

func (f forMethod) applySettings(s *settingsBuilder) {
	if len(f.name) < 3 || f.name[0] != '/' || f.name[1] == '/' || strings.Count(f.name, "/") != 2 {
		s.errs = append(s.errs, fmt.Errorf("ForMethod(%q): the name must be /service/method or /service/", f.name))
		return
	}
	var scratch MethodSettings
	for i, opt := range f.opts {
		if opt == nil {
			s.errs = append(s.errs, fmt.Errorf("ForMethod(%q): option %d is nil", f.name, i+1))
			return
		}
		if err := opt.applyMethod(&scratch); err != nil {
			s.errs = append(s.errs, fmt.Errorf("ForMethod(%q): %w", f.name, err))
		}
	}
	s.methods[f.name] = append(s.methods[f.name], f.opts...)
}

// Tenant sets the function that returns the tenant of a call from the call's incoming context. A key that two
// tenants use is two keys. All calls for which the function returns the empty string share one tenant. The
// function must be safe for concurrent use. The default is [interceptors.TransportIdentity].
//
// If something else identifies callers, such as a token in the metadata, set Tenant, and check the token in an
// interceptor before Hopbound's, because a repeat gets the outcome without running the interceptors after
// Hopbound's or the handler. A server with interceptors.AtEdge must have a Tenant or [SharedKeys]. With mutual
// TLS, pass [interceptors.TransportIdentity] explicitly.
//
// [interceptors.TransportIdentity]: https://pkg.go.dev/github.com/hopbound/hopbound/interceptors#TransportIdentity
func Tenant(of func(ctx context.Context) string) Option {
	return option(func(s *Settings) error {
		if of == nil {
			return errors.New("Tenant: the function is nil")
		}
		s.Tenant = of
		return nil
	})
}

// SharedKeys lets callers without a transport identity share their keys: each of them gets the outcome of every
// key that it knows. Use SharedKeys if all callers are one party, or if keys cannot be guessed and are kept
// secret.
func SharedKeys() Option {
	return option(func(s *Settings) error {
		s.Shared = true
		return nil
	})
}

// LeaseTime sets for how long a write stays claimed after its server has died or can no longer reach the store.
// While a handler runs, its lease is extended. A short lease may expire while the process is paused. The default
// is [DefaultLease], and the minimum 100 ms.
func LeaseTime(d time.Duration) Option {
	return option(func(s *Settings) error {
		s.Lease = d
		return atLeast("LeaseTime", d, 100*time.Millisecond)
	})
}

// StoreTimeout bounds the duration of each step of the store. The default is 2 s, and the minimum
// 1 ms.
func StoreTimeout(d time.Duration) Option {
	return option(func(s *Settings) error {
		s.StoreTimeout = d
		return atLeast("StoreTimeout", d, time.Millisecond)
	})
}

// MaxWait bounds how long a call waits for another run of the same write, in
// addition to its own deadline. With zero, no call waits. The default is no bound.
func MaxWait(d time.Duration) Option {
	return option(func(s *Settings) error {
		s.MaxWait = max(d, 1)
		if d < 0 {
			return fmt.Errorf("MaxWait(%v): must not be negative", d)
		}
		return nil
	})
}

// MaxOutcome bounds the size of an encoded outcome, in bytes. A larger success is stored
// without its response: the handler does not run again, and repeats get
// ALREADY_EXISTS with the reason RESPONSE_OMITTED. A larger failure is stored
// without its details and metadata. The default is 1 MiB, and the minimum 1 KiB.
func MaxOutcome(bytes int) Option {
	return option(func(s *Settings) error {
		s.MaxOutcome = bytes
		if bytes < 1<<10 {
			return fmt.Errorf("MaxOutcome(%d): must be at least 1024", bytes)
		}
		return nil
	})
}

// Seal seals outcomes and checkpoints with a key ring. Methods, and hashes of keys and requests, are stored
// unsealed.
func Seal(keys *KeyRing) Option {
	return option(func(s *Settings) error {
		if keys == nil || len(keys.keys) == 0 {
			return errors.New("Seal: the key ring must have keys; NewKeyRing makes one")
		}
		s.Codec.Keys = keys
		return nil
	})
}

// ChildSecret makes child keys with a secret of at least 16 bytes, so that nobody outside of this service can
// compute them. Without it, a caller that knows the tenant and the names of the methods can compute the child keys
// of its own key. All servers of the service must have the same secret. Writes that are being retried while the
// secret changes get other child keys, and services downstream take them for new writes: change the secret only
// when that is acceptable.
func ChildSecret(secret []byte) Option {
	return option(func(s *Settings) error {
		s.ChildSecret = slices.Clone(secret)
		if len(secret) < 16 {
			return fmt.Errorf("ChildSecret: %d bytes, must be at least 16", len(secret))
		}
		return nil
	})
}

// Off makes the server ignore keys: each call runs.
func Off() MethodOption {
	return methodOption(func(m *MethodSettings) error {
		m.Off = true
		return nil
	})
}

// RequireKey rejects calls without a key, with INVALID_ARGUMENT and the reason KEY_MISSING. As an option for all
// methods, it does not apply to streams and to methods that are declared to have no side effects.
func RequireKey() MethodOption {
	return methodOption(func(m *MethodSettings) error {
		m.KeyRequired = true
		return nil
	})
}

// KeyField names a string field of the request that contains the key if the metadata does not, as in AIP-155. The
// field is not part of the fingerprint.
func KeyField(name string) MethodOption {
	return methodOption(func(m *MethodSettings) error {
		m.KeyField = name
		return nil
	})
}

// Retention sets how long an outcome is kept after it was stored. It must exceed the time for which
// callers retry. A method that is called under child keys needs at least its callers' retention plus
// the time for which they retry. The default is 24 hours, and the minimum 1 ms.
func Retention(d time.Duration) MethodOption {
	return methodOption(func(m *MethodSettings) error {
		m.Retention = d
		return atLeast("Retention", d, time.Millisecond)
	})
}

// FingerprintFields sets the fields by which requests are compared, as paths of field names separated by dots. The
// default is all fields except request_id, the method's key field and field masks.
func FingerprintFields(paths ...string) MethodOption {
	return methodOption(func(m *MethodSettings) error {
		m.Fingerprint = slices.Clone(paths)
		return nil
	})
}

// Codes sets the codes of failures that are stored as outcomes without being declared by [Final]. The default is
// [DefaultCodes].
func Codes(list ...codes.Code) MethodOption {
	return methodOption(func(m *MethodSettings) error {
		m.Codes = slices.Clone(list)
		for _, c := range list {
			if c == codes.OK || c > codes.Unauthenticated {
				return fmt.Errorf("Codes: %v is not the code of a gRPC failure", c)
			}
		}
		return nil
	})
}

// Reruns allows the handler to run again, up to n times in one call, if the database has rolled back its
// transaction because of another (a serialization failure or a deadlock). It has no effect without transactions.
// Allow reruns for a handler that has no effects outside of its transaction, or whose other effects are calls to
// services that recognise its child keys. Without a rerun, and after the last, the call fails with ABORTED and the
// reason TRANSACTION_CONFLICT. A handler that returns an error of the database must wrap it, so that the store
// recognises it. The default is 0.
func Reruns(n int) MethodOption {
	return methodOption(func(m *MethodSettings) error {
		m.Reruns = n
		if n < 0 {
			return fmt.Errorf("Reruns(%d): must not be negative", n)
		}
		return nil
	})
}

// ResponseAliases sets former full names of the method's response message, such as "shop.v1.Order". Outcomes that
// were stored under one of these names are replayed as the response message that the method has now; the two
// messages must have the same wire format.
func ResponseAliases(names ...string) MethodOption {
	return methodOption(func(m *MethodSettings) error {
		m.Aliases = slices.Clone(names)
		for _, name := range names {
			if !protoreflect.FullName(name).IsValid() {
				return fmt.Errorf("ResponseAliases(%q): must be the full name of a message", name)
			}
		}
		return nil
	})
}

func atLeast(name string, d, least time.Duration) error {
	if d < least {
		return fmt.Errorf("%s(%v): must be at least %v", name, d, least)
	}
	return nil
}
