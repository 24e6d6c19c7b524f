package policy

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	hopboundv1 "github.com/hopbound/hopbound/proto/hopbound/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Declaration is what a method's own proto file declares in the option (hopbound.v1.method).
type Declaration struct {
	Policy     Policy        // for its callers
	Floor, Cap time.Duration // for its server

	Retention   time.Duration // of outcomes; 0 if it does not say
	Fingerprint []string
}

// DeclaresKeys reports whether the proto file says how the method's outcomes are stored.
func (d *Declaration) DeclaresKeys() bool { return d.Retention > 0 || len(d.Fingerprint) > 0 }

// Apply sets what the proto file says in the settings of the method's keys.
func (d *Declaration) Apply(m *idempotency.MethodSettings) {
	m.KeyRequired = m.KeyRequired || d.Policy.KeyRequired
	if d.Policy.KeyField != "" {
		m.KeyField = d.Policy.KeyField
	}
	if d.Retention > 0 {
		m.Retention = d.Retention
	}
	if len(d.Fingerprint) > 0 {
		m.Fingerprint = d.Fingerprint
	}
}

// Declarations are those of methods by full name.
type Declarations map[string]Declaration

// ReadDeclarations returns the declarations of all methods whose generated code is linked in, and
// their errors, joined.
func ReadDeclarations(files *protoregistry.Files) (Declarations, error) {
	all := Declarations{}
	var errs []error
	files.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				method := service.Methods().Get(j)
				option, err := optionOf(method.Options())
				if option == nil && err == nil {
					continue
				}
				d, invalid := declare(option)
				if err = errors.Join(err, invalid, checkKeys(method, &d)); err != nil {
					errs = append(errs, fmt.Errorf("%s: option (hopbound.v1.method) of %s: %w", file.Path(), method.FullName(), err))
				}
				all[fmt.Sprintf("/%s/%s", service.FullName(), method.Name())] = d
			}
		}
		return true
	})
	return all, errors.Join(errs...)
}

// optionOf returns Hopbound's option among those of a method, or nil if there is none. A file that
// was loaded at run time has options of dynamic types, which are encoded and decoded again.
func optionOf(options protoreflect.ProtoMessage) (*hopboundv1.MethodPolicy, error) {
	if options == nil || !options.ProtoReflect().IsValid() {
		return nil, nil //nolint:nilnil // none
	}
	raw, err := proto.Marshal(options)
	if err != nil {
		return nil, err
	}
	var typed descriptorpb.MethodOptions
	if err := proto.Unmarshal(raw, &typed); err != nil {
		return nil, err
	}
	if !proto.HasExtension(&typed, hopboundv1.E_Method) {
		return nil, nil //nolint:nilnil // none
	}
	option, _ := proto.GetExtension(&typed, hopboundv1.E_Method).(*hopboundv1.MethodPolicy)
	return option, nil
}

// declare reads one option.
func declare(option *hopboundv1.MethodPolicy) (d Declaration, err error) {
	var r declarationReader
	d.Policy = Policy{
		Timeout:        r.positive("timeout", option.GetTimeout()),
		AttemptTimeout: r.positive("attempt_timeout", option.GetAttemptTimeout()),
		WaitForReady:   option.GetWaitForReady(),
		Idempotency:    r.level(option.GetIdempotency().GetLevel()),
		KeyRequired:    option.GetIdempotency().GetKeyRequired(),
		KeyField:       option.GetIdempotency().GetKeyField(),
	}
	if option.GetAttemptTimeoutShared() {
		d.Policy.AttemptTimeout = Shared
	}
	if p := option.GetRetry(); p != nil {
		d.Policy.Retry = r.retry(p)
	}
	if p := option.GetHedge(); p != nil {
		d.Policy.Hedge = r.hedge(p)
	}
	d.Retention = r.positive("idempotency.retention", option.GetIdempotency().GetRetention())
	d.Fingerprint = option.GetIdempotency().GetFingerprint()
	d.Floor = r.duration("deadline.floor", option.GetDeadline().GetFloor())
	d.Cap = r.positive("deadline.cap", option.GetDeadline().GetCap())
	if d.Cap > 0 && d.Floor > d.Cap {
		r.errs = append(r.errs, fmt.Errorf("field deadline.floor is %v, more than deadline.cap %v", d.Floor, d.Cap))
	}
	r.errs = append(r.errs, d.Policy.Validate())
	return d, errors.Join(r.errs...)
}

// checkKeys returns the errors in the declaration of a method's keys, joined.
func checkKeys(method protoreflect.MethodDescriptor, d *Declaration) error {
	var errs [2]error
	if d.Policy.KeyRequired && (method.IsStreamingClient() || method.IsStreamingServer()) {
		errs[0] = errors.New("field idempotency.key_required is set for a stream")
	}
	_, errs[1] = idempotency.NewFingerprinter(method.Input(), d.Policy.KeyField, d.Fingerprint...)
	return errors.Join(errs[:]...)
}

// declarationReader reads fields and collects their errors.
type declarationReader struct{ errs []error }

func (r *declarationReader) duration(field string, d *durationpb.Duration) time.Duration {
	if d == nil {
		return 0
	}
	if err := d.CheckValid(); err != nil || d.GetSeconds() < 0 || d.GetNanos() < 0 {
		r.errs = append(r.errs, fmt.Errorf("field %s is %v, must be a non-negative duration", field, d))
		return 0
	}
	return d.AsDuration()
}

// positive reads a duration that must be positive if it is set.
func (r *declarationReader) positive(field string, d *durationpb.Duration) time.Duration {
	v := r.duration(field, d)
	if d != nil && v == 0 {
		r.errs = append(r.errs, fmt.Errorf("field %s must be positive", field))
	}
	return v
}

func (r *declarationReader) codes(list []hopboundv1.Code) []codes.Code {
	read := make([]codes.Code, 0, len(list))
	for _, c := range list {
		read = append(read, codes.Code(max(0, c)))
	}
	return read
}

func (r *declarationReader) level(l hopboundv1.IdempotencyPolicy_Level) Level {
	return Level(l) // the numbers are the same
}

func (r *declarationReader) retry(p *hopboundv1.RetryPolicy) *Retry {
	jitter := Jitter(max(0, p.GetJitter()-1)) // the numbers are the same but for the unspecified 0
	multiplier := p.GetBackoffMultiplier()
	if p.BackoffMultiplier != nil && !(multiplier >= 1 && multiplier < math.Inf(1)) {
		r.errs = append(r.errs, fmt.Errorf("field retry.backoff_multiplier is %v, must be a finite number of at least 1", multiplier))
		multiplier = 0
	}
	return &Retry{
		MaxAttempts: r.attempts("retry.max_attempts", p.MaxAttempts != nil, p.GetMaxAttempts()),
		Codes:       r.codes(p.GetCodes()),
		Backoff: Backoff{
			Base:       r.positive("retry.backoff_base", p.GetBackoffBase()),
			Max:        r.positive("retry.backoff_max", p.GetBackoffMax()),
			Multiplier: multiplier,
			Jitter:     jitter,
		},
	}
}

func (r *declarationReader) hedge(p *hopboundv1.HedgePolicy) *Hedge {
	h := &Hedge{
		MaxAttempts: r.attempts("hedge.max_attempts", p.MaxAttempts != nil, p.GetMaxAttempts()),
		Delay:       r.duration("hedge.delay", p.GetDelay()),
	}
	if p.GetAtP95() {
		h.Delay = AtP95
	}
	if len(p.GetNonFatal()) > 0 {
		h.NonFatal = r.codes(p.GetNonFatal())
	}
	return h
}

// attempts reads a number of attempts, which must be at least 1 if it is set.
func (r *declarationReader) attempts(field string, has bool, n int32) int {
	if has && (n < 1 || n > MaxAttempts) {
		r.errs = append(r.errs, fmt.Errorf("field %s is %d, must be between 1 and %d", field, n, MaxAttempts))
		return 0
	}
	return int(n)
}
