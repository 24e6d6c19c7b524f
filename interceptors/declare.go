package interceptors

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

// declaration is what a method's own proto file says of it, in the option
// (hopbound.v1.method).
type declaration struct {
	policy     Policy        // for its callers
	floor, cap time.Duration // for its server

	retention   time.Duration // of outcomes; 0 if it does not say
	fingerprint []string
}

// declaresKeys reports whether the method's proto file says how its outcomes are stored.
func (d *declaration) declaresKeys() bool { return d.retention > 0 || len(d.fingerprint) > 0 }

// declarations are those of methods by full name.
type declarations map[string]declaration

// readDeclarations returns the declarations of all methods whose generated code
// is linked in, and what is wrong with any.
func readDeclarations(files *protoregistry.Files) (declarations, error) {
	all := declarations{}
	var errs []error
	files.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				method := service.Methods().Get(j)
				option, err := declared(method.Options())
				if option == nil && err == nil {
					continue
				}
				d, wrong := declare(option)
				if err = errors.Join(err, wrong, checkKeys(method, &d)); err != nil {
					errs = append(errs, fmt.Errorf("%s: option (hopbound.v1.method) of %s: %w", file.Path(), method.FullName(), err))
				}
				all[fmt.Sprintf("/%s/%s", service.FullName(), method.Name())] = d
			}
		}
		return true
	})
	return all, errors.Join(errs...)
}

// declared returns the option among a method's, or nil if there is none. A file
// that was loaded rather than linked in has options of types made at run time,
// which are read anew.
func declared(options protoreflect.ProtoMessage) (*hopboundv1.MethodPolicy, error) {
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

// declare reads one declaration.
func declare(option *hopboundv1.MethodPolicy) (d declaration, err error) {
	var r declarationReader
	d.policy = Policy{
		Timeout:        r.positive("timeout", option.GetTimeout()),
		AttemptTimeout: r.positive("attempt_timeout", option.GetAttemptTimeout()),
		WaitForReady:   option.GetWaitForReady(),
		Idempotency:    r.level(option.GetIdempotency().GetLevel()),
		KeyRequired:    option.GetIdempotency().GetKeyRequired(),
		KeyField:       option.GetIdempotency().GetKeyField(),
	}
	if option.GetAttemptTimeoutShared() {
		d.policy.AttemptTimeout = AttemptTimeoutShared
	}
	if p := option.GetRetry(); p != nil {
		d.policy.Retry = r.retry(p)
	}
	if p := option.GetHedge(); p != nil {
		d.policy.Hedge = r.hedge(p)
	}
	d.retention = r.positive("idempotency.retention", option.GetIdempotency().GetRetention())
	d.fingerprint = option.GetIdempotency().GetFingerprint()
	d.floor = r.duration("deadline.floor", option.GetDeadline().GetFloor())
	d.cap = r.positive("deadline.cap", option.GetDeadline().GetCap())
	if d.cap > 0 && d.floor > d.cap {
		r.errs = append(r.errs, fmt.Errorf("field deadline.floor is %v, more than deadline.cap %v", d.floor, d.cap))
	}
	r.errs = append(r.errs, d.policy.validate())
	return d, errors.Join(r.errs...)
}

// checkKeys returns what is wrong with what is declared of a method's keys.
func checkKeys(method protoreflect.MethodDescriptor, d *declaration) error {
	var errs [2]error
	if d.policy.KeyRequired && (method.IsStreamingClient() || method.IsStreamingServer()) {
		errs[0] = errors.New("field idempotency.key_required is set for a stream")
	}
	_, errs[1] = idempotency.NewFingerprinter(method.Input(), d.policy.KeyField, d.fingerprint...)
	return errors.Join(errs[:]...)
}

// declarationReader reads fields and collects what is wrong with them.
type declarationReader struct{ errs []error }

func (r *declarationReader) duration(field string, d *durationpb.Duration) time.Duration {
	if d == nil {
		return 0
	}
	if err := d.CheckValid(); err != nil || d.GetSeconds() < 0 || d.GetNanos() < 0 {
		r.errs = append(r.errs, fmt.Errorf("field %s is %v, which is no duration from nothing up", field, d))
		return 0
	}
	return d.AsDuration()
}

// positive reads a duration that must be more than nothing if it is there.
func (r *declarationReader) positive(field string, d *durationpb.Duration) time.Duration {
	v := r.duration(field, d)
	if d != nil && v == 0 {
		r.errs = append(r.errs, fmt.Errorf("field %s must be more than nothing", field))
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

func (r *declarationReader) level(l hopboundv1.IdempotencyPolicy_Level) IdempotencyLevel {
	return IdempotencyLevel(l) // by the same numbers
}

func (r *declarationReader) retry(p *hopboundv1.RetryPolicy) *RetryPolicy {
	jitter := Jitter(max(0, p.GetJitter()-1)) // after the unspecified, by the same numbers
	multiplier := p.GetBackoffMultiplier()
	if p.BackoffMultiplier != nil && !(multiplier >= 1 && multiplier < math.Inf(1)) {
		r.errs = append(r.errs, fmt.Errorf("field retry.backoff_multiplier is %v, less than 1 or no number", multiplier))
		multiplier = 0
	}
	return &RetryPolicy{
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

func (r *declarationReader) hedge(p *hopboundv1.HedgePolicy) *HedgePolicy {
	h := &HedgePolicy{
		MaxAttempts: r.attempts("hedge.max_attempts", p.MaxAttempts != nil, p.GetMaxAttempts()),
		Delay:       r.duration("hedge.delay", p.GetDelay()),
	}
	if p.GetAtP95() {
		h.Delay = HedgeAtP95
	}
	if len(p.GetNonFatal()) > 0 {
		h.NonFatal = r.codes(p.GetNonFatal())
	}
	return h
}

// attempts reads a number of attempts, which if it is there is at least 1.
func (r *declarationReader) attempts(field string, has bool, n int32) int {
	if has && (n < 1 || n > mostAttempts) {
		r.errs = append(r.errs, fmt.Errorf("field %s is %d, not within 1 and %d", field, n, mostAttempts))
		return 0
	}
	return int(n)
}
