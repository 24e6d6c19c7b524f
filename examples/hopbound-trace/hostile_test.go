package main

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hopbound/hopbound/examples/internal/tree"
)

// withID returns a span like good, with another id and, unless it is 0, a parent.
func withID(id, parent int) string {
	text := strings.Replace(good, "00f067aa0ba902b7", fmt.Sprintf("%016x", id), 1)
	if parent != 0 {
		text = strings.Replace(text, `"name"`, fmt.Sprintf(`"parentSpanId":"%016x","name"`, parent), 1)
	}
	return text
}

func TestLineThatIsCutLosesOnlyItself(t *testing.T) {
	t.Parallel()
	whole := document(good)
	next := document(strings.Replace(good, `"name":"a"`, `"name":"next"`, 1))
	for n := 1; n < len(whole); n++ {
		code, out, log := runOn(whole[:n] + "\n" + next)
		if code != exitLeftOut || !strings.Contains(out, "server next: ") && !strings.Contains(log, "another span has the same id") {
			t.Errorf("cut after %q: exit %d, %s%s", whole[:n], code, log, out)
		}
	}
}

func TestSpansMayComeBeforeTheirResource(t *testing.T) {
	t.Parallel()
	input := `{"resourceSpans":[{"scopeSpans":[{"spans":[` + good + `]}],"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"late"}}]}},` +
		`{"scopeSpans":[{"spans":[` + withID(7, 0) + `]}]}]}`
	code, out, log := runOn(input)
	if code != 0 || !strings.Contains(out, "  late: server a: ") || !strings.Contains(out, "  : server a: ") {
		t.Errorf("exit %d: %s%s", code, log, out)
	}
}

func TestHostileInputIsReportedAndTheRestIsShown(t *testing.T) {
	t.Parallel()
	set := func(field, value string) string {
		return document(withID(1, 0), strings.Replace(withID(2, 0), `"name":"a"`, `"name":"a","`+field+`":`+value, 1), withID(3, 0))
	}
	digits := strings.Repeat("9", 5000)
	nested := strings.Repeat("[", 5000) + strings.Repeat("]", 5000)
	for name, tc := range map[string]struct{ input, log string }{
		"a span that is too large":    {set("x", `"`+strings.Repeat("x", 1<<20)+`"`), "standard input:2: left out: span: larger than 1048576 bytes\n"},
		"a span that is nested":       {set("x", nested), "standard input:2: left out: span: nested deeper than 200\n"},
		"a time of many digits":       {set("endTimeUnixNano", digits), "standard input:2: left out: span: "},
		"an attribute of many digits": {set("attributes", `[{"key":"hopbound.attempt","value":{"intValue":"`+digits+`"}}]`), "standard input:2: left out: span: "},
		"a large exponent":            {set("attributes", `[{"key":"hopbound.budget.leased","value":{"doubleValue":1e999999999}}]`), "standard input:2: left out: span: "},
		"a time beyond 64 bits":       {set("startTimeUnixNano", `"9223372036854775808"`), "standard input:2: left out: span: "},
		"an id of many letters":       {set("traceId", `"`+strings.Repeat("\\u001b", 5000)+`"`), "standard input:2: left out: span: traceId "},
		"another span of its id":      {document(withID(1, 0), withID(3, 0), withID(1, 2)), "standard input:3: left out: span: another span has the same id\n"},
		"lists of documents":          {"[" + document(withID(1, 0), withID(3, 0)) + ",\n" + nested + "]", "standard input:3: left out: nested deeper than 200\n"},
		"envelopes": {
			document(withID(1, 0), withID(3, 0)) + "\n" + strings.Repeat(`{"result":`, 5000) + "{}" + strings.Repeat("}", 5000),
			"standard input:3: left out: nested deeper than 200\n",
		},
		"a span of Jaeger that is too large": {
			jaegerDocument([]string{jaegerSpanOf(1, 0), strings.Replace(jaegerSpanOf(2, 0), `"a"`, `"`+strings.Repeat("x", 1<<20)+`"`, 1), jaegerSpanOf(3, 0)}),
			"standard input:2: left out: span: larger than 1048576 bytes\n",
		},
		"a field of stdouttrace that is too large": {
			stdoutSpanOf(1, 0) + "\n" + strings.Replace(stdoutSpanOf(2, 0), `"a"`, `"`+strings.Repeat("x", 1<<20)+`"`, 1) + "\n" + stdoutSpanOf(3, 0),
			"standard input:2: left out: span: larger than 1048576 bytes\n",
		},
		"a span of stdouttrace that is nested": {
			stdoutSpanOf(1, 0) + "\n" + strings.Replace(stdoutSpanOf(2, 0), `"Name":"a"`, `"Events":`+nested, 1) + "\n" + stdoutSpanOf(3, 0),
			"standard input:2: left out: span: nested deeper than 200\n",
		},
		"an end that is missing": {strings.TrimSuffix(document(withID(1, 0), withID(3, 0)), "}"), "standard input:2: left out: the rest of the document of line 1: the input is cut off (unexpected EOF)\n"},
	} {
		code, out, log := runOn(tc.input)
		if code != exitLeftOut || !strings.HasPrefix(log, tc.log) || strings.Count(log, "\n") != 1 || len(log) > 400 {
			t.Errorf("%s: exit %d, %.500q", name, code, log)
		}
		if n := strings.Count(out, "shop: server a: ended"); n != 2 {
			t.Errorf("%s: %d spans are shown\n%s", name, n, out)
		}
	}
}

// What no field needs may be of any size, and as nested as it likes.
func TestWhatIsNotNeededIsSkipped(t *testing.T) {
	t.Parallel()
	for _, more := range []string{
		`"x":"` + strings.Repeat("x", 1<<21) + `",`, `"x":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + ",",
		`"` + strings.Repeat("x", 1<<21) + `":1,`, `"schemaUrl":1e99999999999,`,
	} {
		input := strings.ReplaceAll(document(good), `"scopeSpans":[{`, more+`"scopeSpans":[{`+more)
		if code, out, log := runOn(input); code != 0 || !strings.Contains(out, "shop: server a: ended") {
			t.Errorf("%.20s: exit %d, %s", more, code, log)
		}
	}
}

func TestWhatHasNoRoomIsReported(t *testing.T) {
	t.Parallel()
	other := strings.Replace(good, traceID, "11111111111111111111111111111111", 1)
	input := document(withID(1, 0), withID(2, 1), other, withID(3, 1), other, withID(2, 1))
	limits := defaultLimits()
	limits.kept = requestSize + 2*(spanSize+40) + 3*(textSize+10)
	for _, tc := range []struct {
		args []string
		log  []string
		code int
	}{
		{nil, []string{
			"standard input:3: left out: this span and the following ones: the limit",
			"left out: 3 spans, because the limit for all spans is reached\n",
			"left out: 1 of these are spans of request " + traceID,
		}, exitLeftOut},
		{[]string{"-trace", "1"}, nil, 0},
	} {
		var out, log bytes.Buffer
		code := run(tc.args, strings.NewReader(input), &out, &log, limits)
		if code != tc.code || strings.Count(log.String(), "\n") != len(tc.log) || !strings.Contains(out.String(), "shop: server a: ended") {
			t.Errorf("%v: exit %d, %s%s", tc.args, code, log.String(), out.String())
		}
		for _, want := range tc.log {
			if !strings.Contains(log.String(), want) {
				t.Errorf("no %q in %s", want, log.String())
			}
		}
	}
}

func TestHopsAndReportsBeyondALimitAreCounted(t *testing.T) {
	t.Parallel()
	var input strings.Builder
	for i := range 10 {
		span := strings.Replace(withID(i+1, 0), `"kind":2`, `"kind":3,"attributes":[{"key":"hopbound.attempt","value":{"intValue":"1"}}]`, 1)
		input.WriteString(strings.Replace(document(span), "shop", fmt.Sprint("shop", i), 1) + "\nnonsense\n")
	}
	limits := defaultLimits()
	limits.hops, limits.reports = 4, 3
	var out, log bytes.Buffer
	code := run(nil, strings.NewReader(input.String()), &out, &log, limits)
	if code != exitLeftOut || strings.Count(log.String(), "\n") != 5 ||
		!strings.Contains(log.String(), "left out: 7 more malformed") || !strings.Contains(log.String(), "left out: 6 hops beyond the first 4\n") {
		t.Errorf("exit %d, %s", code, log.String())
	}
}

// Decisions, like all text of a file, may be anything, and there may be any number.
func TestDecisionsAreBounded(t *testing.T) {
	t.Parallel()
	var spans []string
	for i := range 1000 {
		attributes := fmt.Sprintf(`"kind":3,"attributes":[{"key":"hopbound.attempt","value":{"intValue":"1"}},`+
			`{"key":"hopbound.decision","value":{"stringValue":"\u001b]0;%d%s"}}]`, i, strings.Repeat("é", 300))
		spans = append(spans, strings.Replace(withID(i+1, 0), `"kind":2`, attributes, 1))
	}
	_, out, _ := runOn(document(spans...))
	table, _, _ := strings.Cut(out, "Request")
	if len(table) > 2*20*maxText || !strings.Contains(table, "…") || !strings.Contains(table, "others 984") || strings.ContainsRune(out, 0x1b) {
		t.Errorf("%d bytes: %.2000s", len(table), table)
	}
}

// shapes are traces of n spans that are as odd as can be.
var shapes = map[string]func(i, n int) (id, parent int){
	"a chain":           func(i, _ int) (int, int) { return i + 1, i },
	"a chain backwards": func(i, n int) (int, int) { return n - i, n - i - 1 },
	"one parent":        func(i, _ int) (int, int) { return i + 1, min(i, 1) },
	"no parents":        func(i, n int) (int, int) { return i + 1, n + 1 },
	"small circles":     func(i, _ int) (int, int) { return i + 1, i + 1 },
	"one circle":        func(i, n int) (int, int) { return i + 1, (i+1)%n + 1 },
	"a tail of circles": func(i, _ int) (int, int) { return i + 1, max(i-1, 1) },
	"one id":            func(int, int) (int, int) { return 1, 1 },
}

// jaegerSpanOf returns a span in Jaeger's JSON.
func jaegerSpanOf(id, parent int) string {
	return fmt.Sprintf(`{"traceID":"%s","spanID":"%016x","operationName":"a","references":[{"refType":"CHILD_OF","traceID":"%s","spanID":"%016x"}],`+
		`"startTime":1000,"duration":1000,"tags":[{"key":"span.kind","type":"string","value":"server"}],"logs":[],"processID":"p1"}`, traceID, id, traceID, parent)
}

func jaegerDocument(spans []string) string {
	return `{"data":[{"traceID":"` + traceID + `","spans":[` + strings.Join(spans, ",\n") + `],"processes":{"p1":{"serviceName":"shop"}}}]}`
}

// stdoutSpanOf returns a span as stdouttrace writes it, but for fields that are not read.
func stdoutSpanOf(id, parent int) string {
	return fmt.Sprintf(`{"Name":"a","SpanContext":{"TraceID":"%s","SpanID":"%016x"},"Parent":{"TraceID":"%s","SpanID":"%016x"},"SpanKind":2,`+
		`"StartTime":"2026-01-01T00:00:00Z","EndTime":"2026-01-01T00:00:01Z","Resource":[{"Key":"service.name","Value":{"Type":"STRING","Value":"shop"}}]}`,
		traceID, id, traceID, parent)
}

// What is allocated and written shows a cost that grows faster than the input. This
// test must not run beside others, which allocate too.
func TestCostIsLinear(t *testing.T) {
	skipWithRaceDetector(t)
	cost := func(document string) (allocated, written int) {
		var before, after runtime.MemStats
		var out, log bytes.Buffer
		runtime.ReadMemStats(&before)
		code := run(nil, strings.NewReader(document), &out, &log, defaultLimits())
		runtime.ReadMemStats(&after)
		if code != 0 && code != exitLeftOut {
			t.Errorf("exit %d, %s", code, log.String())
		}
		return int(after.TotalAlloc - before.TotalAlloc), out.Len() + log.Len()
	}
	inputs := map[string]func(i, n int) string{
		"many traces": func(i, _ int) string { return strings.Replace(good, traceID, fmt.Sprintf("%032x", i+1), 1) },
		"many resources": func(i, _ int) string {
			return withID(i+1, 0) + fmt.Sprintf(`]}]},{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"%d"}}]},"scopeSpans":[{"spans":[`, i) + withID(i+1, i)
		},
		"malformed": func(i, _ int) string { return strconv.Itoa(i) },
	}
	for name, shape := range shapes {
		inputs[name] = func(i, n int) string { return withID(shape(i, n)) }
	}
	documents := map[string]func(spans []string) string{
		"Jaeger":      func(spans []string) string { return jaegerDocument(spans) },
		"stdouttrace": func(spans []string) string { return strings.Join(spans, "\n") },
	}
	for _, name := range []string{"a chain", "one parent", "one circle"} {
		shape := shapes[name]
		inputs["Jaeger: "+name] = func(i, n int) string { return jaegerSpanOf(shape(i, n)) }
		inputs["stdouttrace: "+name] = func(i, n int) string { return stdoutSpanOf(shape(i, n)) }
	}
	for name, span := range inputs {
		format, _, _ := strings.Cut(name, ": ")
		input := func(n int) string {
			var spans []string
			for i := range n {
				spans = append(spans, span(i, n))
			}
			if of := documents[format]; of != nil {
				return of(spans)
			}
			return document(append(spans, good)...)
		}
		const n = 1000
		allocated, written := cost(input(n))
		allocated10, written10 := cost(input(10 * n))
		if allocated10 > 15*allocated || written10 > 12*written {
			t.Errorf("%s: %d bytes allocated and %d written for %d spans, %d and %d for 10 times as many", name, allocated, written, n, allocated10, written10)
		}
	}
}

// This test would not end if anything were done for each pair of spans, and it would
// overflow the stack if anything recursed for each span of a chain.
func TestManySpansOfOneTrace(t *testing.T) {
	t.Parallel()
	skipWithRaceDetector(t)
	ids := make([]string, 1_000_002)
	for i := range ids {
		ids[i] = strconv.Itoa(i)
	}
	for name, shape := range shapes {
		n := map[string]int{"a chain": 1_000_000, "one parent": 300_000}[name]
		n = cmp.Or(n, 30_000)
		spans := make([]*tree.Span, n)
		for i := range spans {
			id, parent := shape(i, n)
			spans[i] = &tree.Span{ID: ids[id], Parent: ids[parent], Kind: tree.Server, Began: time.Unix(0, int64(i))}
		}
		if depths := depthsOf(spans); len(depths) != n {
			t.Errorf("%s: %d depths", name, len(depths))
		}
		var lines counter
		leftOut, err := tree.Write(&lines, spans)
		if printed := n - leftOut; err != nil || lines.n < printed || lines.n > printed+2 { // a line for each place of those left out
			t.Errorf("%s: %d lines, %d spans left out of %d, %v", name, lines.n, leftOut, n, err)
		}
	}
}

// counter counts lines.
type counter struct{ n int }

func (c *counter) Write(p []byte) (int, error) {
	c.n += bytes.Count(p, []byte("\n"))
	return len(p), nil
}

func TestDepthsAreThoseOfTheWayToTheRoot(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		n := 1 + random.IntN(30)
		spans := make([]*tree.Span, n)
		for i, id := range random.Perm(n) {
			spans[i] = &tree.Span{ID: strconv.Itoa(id), Parent: strconv.Itoa(id - 1 - random.IntN(3)), Kind: tree.Kind(random.IntN(3))}
		}
		known := map[string]*tree.Span{}
		for _, s := range spans {
			known[s.ID] = s
		}
		depths := depthsOf(spans)
		for _, s := range spans {
			want := 0
			for above := s; above != nil; above = known[above.Parent] {
				if above.Kind == tree.Server {
					want++
				}
			}
			if depths[s] != want {
				t.Fatalf("depth %d, want %d", depths[s], want)
			}
		}
	}
}
