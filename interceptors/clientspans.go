package interceptors

import (
	"reflect"
	"runtime"
	"slices"
	"weak"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
)

// Stats handlers that make a CLIENT span of every call to gRPC, which each
// attempt is, or leave that to an interceptor of theirs.
var spanMakers = [...]struct{ pkg, name string }{
	{"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc", "clientHandler"},
	{"google.golang.org/grpc/stats/opentelemetry", "clientTracingHandler"},
}

// makesClientSpan reports whether the attempts on a connection are CLIENT spans:
// unless a stats handler of the connection makes one below each.
func (t *tracing) makesClientSpan(cc *grpc.ClientConn) bool {
	if t.attemptKind != trace.SpanKindUnspecified {
		return t.attemptKind == trace.SpanKindClient
	}
	if cc == nil {
		return true
	}
	key := weak.Make(cc)
	other, known := t.others.Load(key)
	if !known {
		other = hasSpanMaker(cc)
		if _, known = t.others.LoadOrStore(key, other); !known {
			runtime.AddCleanup(cc, func(t *tracing) { t.others.Delete(key) }, t)
		}
	}
	return other != true
}

// hasSpanMaker reports whether a connection has one of the stats handlers that
// make spans. gRPC does not tell what a connection was dialled with, so that it
// looks at the types there. If gRPC keeps them elsewhere one day it finds none.
func hasSpanMaker(cc *grpc.ClientConn) bool {
	v := reflect.ValueOf(cc).Elem()
	for _, name := range [...]string{"dopts", "copts", "StatsHandlers"} {
		if v.Kind() != reflect.Struct {
			return false
		}
		v = v.FieldByName(name)
	}
	if v.Kind() != reflect.Slice || v.Type().Elem().Kind() != reflect.Interface {
		return false
	}
	for i := range v.Len() {
		t := v.Index(i).Elem().Type()
		for t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		if slices.Contains(spanMakers[:], struct{ pkg, name string }{t.PkgPath(), t.Name()}) {
			return true
		}
	}
	return false
}
