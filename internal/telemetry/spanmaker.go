package telemetry

import (
	"reflect"
	"runtime"
	"weak"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
)

// spanMaker is a stats handler of a connection that makes a CLIENT span below each attempt.
type spanMaker int

const (
	noSpanMaker spanMaker = iota
	byOtelgrpc            // it replaces the trace context of the attempt by its own
	byGRPC                // it adds its own trace context
)

// spanMakers are the known ones, by package and type.
func spanMakers() map[[2]string]spanMaker {
	return map[[2]string]spanMaker{
		{"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc", "clientHandler"}: byOtelgrpc,
		{"google.golang.org/grpc/stats/opentelemetry", "clientTracingHandler"}:                           byGRPC,
	}
}

// spanMaker returns the stats handler of a connection that makes spans.
func (t *tracing) spanMaker(cc *grpc.ClientConn) spanMaker {
	if cc == nil {
		return noSpanMaker
	}
	key := weak.Make(cc)
	known, _ := t.makers.Load(key)
	if maker, ok := known.(spanMaker); ok {
		return maker
	}
	maker := findSpanMaker(cc)
	if _, known := t.makers.LoadOrStore(key, maker); !known {
		runtime.AddCleanup(cc, func(t *tracing) { t.makers.Delete(key) }, t)
	}
	return maker
}

// clientSpan reports whether attempts are CLIENT spans. They are INTERNAL if a stats handler makes a
// CLIENT span below each.
func (t *tracing) clientSpan(maker spanMaker) bool {
	if t.attemptKind != trace.SpanKindUnspecified {
		return t.attemptKind == trace.SpanKindClient
	}
	return maker == noSpanMaker
}

// findSpanMaker looks for a stats handler that makes spans. gRPC has no method that returns the
// stats handlers of a connection, so it reads private fields. If a field is not where it was in
// grpc-go 1.85, it finds none.
func findSpanMaker(cc *grpc.ClientConn) spanMaker {
	v := reflect.ValueOf(cc).Elem()
	for _, name := range [...]string{"dopts", "copts", "StatsHandlers"} {
		if v.Kind() != reflect.Struct {
			return noSpanMaker
		}
		v = v.FieldByName(name)
	}
	if v.Kind() != reflect.Slice || v.Type().Elem().Kind() != reflect.Interface {
		return noSpanMaker
	}
	for i := range v.Len() {
		if v.Index(i).IsNil() {
			continue
		}
		t := v.Index(i).Elem().Type()
		for t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		if maker := spanMakers()[[2]string{t.PkgPath(), t.Name()}]; maker != noSpanMaker {
			return maker
		}
	}
	return noSpanMaker
}
