package telemetry

import (
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/grpc/codes"
)

// labels are the attributes of a series of a metric, in the form in which
// measuring with them allocates nothing.
type labels struct {
	add    []metric.AddOption
	record []metric.RecordOption
}

func newLabels(kvs ...attribute.KeyValue) *labels {
	set := metric.WithAttributeSet(attribute.NewSet(kvs...))
	return &labels{add: []metric.AddOption{set}, record: []metric.RecordOption{set}}
}

// lazyLabels are labels that are made when they are first used, for series of
// which most never are.
type lazyLabels struct{ made atomic.Pointer[labels] }

func (l *lazyLabels) get(create func() *labels) *labels {
	if made := l.made.Load(); made != nil {
		return made
	}
	made := create()
	l.made.Store(made)
	return made
}

// codeLimit is one more than the greatest code that gRPC knows.
const codeLimit = int(codes.Unauthenticated) + 1

// codeLabels are labels for each status code, and one for those that gRPC does
// not know.
type codeLabels [codeLimit + 1]lazyLabels

func (l *codeLabels) get(code codes.Code, create func(name string) *labels) *labels {
	name := codeName(code)
	if int(code) >= codeLimit {
		name = other
	}
	return l[min(int(code), codeLimit)].get(func() *labels { return create(name) })
}
