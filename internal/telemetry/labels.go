package telemetry

import (
	"slices"
	"sync"
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

func newLabels(kvs ...attribute.KeyValue) *labels { return labelsOf(attribute.NewSet(kvs...)) }

func labelsOf(set attribute.Set) *labels {
	option := metric.WithAttributeSet(set)
	return &labels{add: []metric.AddOption{option}, record: []metric.RecordOption{option}}
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

// bounded limits the attribute sets of one instrument. OpenTelemetry's SDK keeps 2,000 for an
// instrument, and adds all measurements with further sets to a series that has no attributes. An
// instrument that uses bounded stays below 1,500: when there is no room for a new set, a less detailed
// one is used. Successes and failures have room of their own, so that successes, of which there are
// many from the start, leave room for failures. It is safe for concurrent use.
type bounded struct {
	mu   sync.Mutex
	made map[attribute.Distinct]*labels
	used [2][2]int // sets by level of detail, of successes and of failures
}

// maxSets is how many sets there may be of the first and of the second level of detail, of successes
// and of failures.
func maxSets() [2][2]int { return [2][2]int{{1000, 300}, {50, 100}} }

// get returns the labels for the first of some attribute sets for which there is room, from the most
// to the least detailed. For the last, there always is: its values must be few.
func (b *bounded) get(failed bool, levels int, setOf func(level int) attribute.Set) *labels {
	b.mu.Lock()
	defer b.mu.Unlock()
	class := index(failed)
	for level := range levels {
		set := setOf(level)
		if known := b.made[set.Equivalent()]; known != nil {
			return known
		}
		if last := level == levels-1; !last {
			if b.used[level][class] >= maxSets()[level][class] {
				continue
			}
			b.used[level][class]++
		}
		if b.made == nil {
			b.made = map[attribute.Distinct]*labels{}
		}
		l := labelsOf(set)
		b.made[set.Equivalent()] = l
		return l
	}
	return nil
}

// byMethodAndTarget returns labels with a method, a target and other attributes. Without room, the
// method is left out first, so that sums by target stay exact.
func (b *bounded) byMethodAndTarget(failed bool, method, target string, rest ...attribute.KeyValue) *labels {
	return b.get(failed, 3, func(level int) attribute.Set {
		names := [...][2]string{{method, target}, {other, target}, {other, other}}[level]
		return attribute.NewSet(append(slices.Clip(rest), attrGRPCMethod.String(names[0]), attrGRPCTarget.String(names[1]))...)
	})
}

// by returns labels with a name and other attributes. Without room, the name is "other".
func (b *bounded) by(failed bool, key attribute.Key, name string, rest ...attribute.KeyValue) *labels {
	return b.get(failed, 2, func(level int) attribute.Set {
		return attribute.NewSet(append(slices.Clip(rest), key.String([...]string{name, other}[level]))...)
	})
}
