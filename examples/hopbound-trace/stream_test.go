package main

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
)

// stream is an input that is made while it is read. It measures the heap meanwhile.
type stream struct {
	part func(to []byte, i int) []byte // appends the i-th part
	size int                           // after which no part begins

	parts, bytes int
	rest         []byte // of the last part
	buffer       []byte
	measured     int // how many bytes had been read then
	peak         uint64
}

func (s *stream) Read(to []byte) (int, error) {
	if s.bytes >= s.measured {
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		s.peak = max(s.peak, stats.HeapAlloc)
		s.measured += 1 << 22
	}
	if len(s.rest) == 0 {
		if s.bytes >= s.size {
			return 0, io.EOF
		}
		s.buffer = s.part(s.buffer[:0], s.parts)
		s.rest = s.buffer
		s.parts++
	}
	n := copy(to, s.rest)
	s.rest = s.rest[n:]
	s.bytes += n
	return n, nil
}

const (
	head = `{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}}]},"scopeSpans":[{"spans":[`
	tail = `]}]}]}`
)

var padding = strings.Repeat("0", 4000)

// appendSpan appends the i-th span of a system whose traces have ten spans.
func appendSpan(to []byte, i int) []byte {
	return fmt.Appendf(to, `{"traceId":"%032x","spanId":"%016x","parentSpanId":"%016x","name":"Pay","kind":%d,"startTimeUnixNano":"1000",`+
		`"endTimeUnixNano":"2000","attributes":[{"key":"hopbound.attempt","value":{"intValue":"1"}},{"key":"hopbound.decision","value":`+
		`{"stringValue":"done"}},{"key":"padding","value":{"stringValue":"%s"}}]}`, i/10+1, i+1, max(i-i%10, 1), 2+i%2, padding)
}

func appendLine(to []byte, i int) []byte {
	return append(append(append(to, head...), appendSpan(nil, i)...), tail+"\n"...)
}

// skipWithRaceDetector skips a test of costs: there is one goroutine, and the race
// detector is slow.
func skipWithRaceDetector(t *testing.T) {
	t.Helper()
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		t.Skip("the race detector is on")
	}
}

// This test must not run beside others, which use the heap too.
func TestMemoryIsBoundedWhateverTheSizeOfTheInput(t *testing.T) {
	skipWithRaceDetector(t)
	const size, hostile, bound = 128 << 20, 12 << 20, 12 << 20
	limits := defaultLimits()
	limits.kept, limits.request = 2<<20, 2<<20
	filler := func(text string) func([]byte, int) []byte {
		text = strings.Repeat(text, 1<<16/len(text))
		return func(to []byte, _ int) []byte { return append(to, text...) }
	}
	for _, tc := range []struct {
		name       string
		head, tail string
		part       func([]byte, int) []byte
		size       int
		args       []string
		code       int
		log        string
	}{
		{"one document", head, tail, func(to []byte, i int) []byte {
			if i > 0 {
				to = append(to, ",\n"...)
			}
			return appendSpan(to, i)
		}, size, nil, exitLeftOut, "the limit for all spans is reached"},
		{"lines of which one request is shown", "", "", appendLine, 2 * hostile, []string{"-trace", fmt.Sprintf("%032x", 123)}, 0, ""},
		{"lines without a resource", "", "", func(to []byte, i int) []byte {
			return append(append(append(to, `{"resourceSpans":[{"scopeSpans":[{"spans":[`...), appendSpan(nil, i%1000)...), tail+"\n"...)
		}, hostile, nil, 0, ""},
		{"one span many times before its resource", `{"resourceSpans":[{"scopeSpans":[{"spans":[` + good, tail, filler("," + good), hostile, nil, 0, ""},
		{"one string", head + good + `,"`, `"` + tail, filler("x"), hostile, nil, exitLeftOut, "standard input:1: left out: span: larger than 1048576 bytes"},
		{"one number", head + good + `,`, tail, filler("1"), hostile, nil, exitLeftOut, "larger than"},
		{"one name", head + good + `]}],"`, `":1}]}`, filler("x"), hostile, nil, 0, ""},
		{"one span of small attributes", head + good + `,{"attributes":[{}`, `]}` + tail, filler(",{}"), hostile, nil, exitLeftOut, "larger than"},
		{"spaces", document(good) + "\n", "", filler(" "), hostile, nil, 0, ""},
		{"nested documents", document(good) + "\n", "", filler("["), hostile, nil, exitLeftOut, "unexpected EOF"},
		{"a nested span", document(good) + "\n" + head, "", filler(`{"a":[`), hostile, nil, exitLeftOut, "unexpected EOF"},
		{"a nested value that is not needed", `{"a":`, "", filler(`[`), hostile, nil, exitFailed, "unexpected EOF"},
		{"lines of nonsense", document(good) + "\n", "", filler("{nonsense}\n"), hostile, nil, exitLeftOut, "more malformed"},
		{"spans of Jaeger before their process", `{"data":[{"spans":[`, `{}],"processes":{"p1":{"serviceName":"shop"}}}]}`, func(to []byte, i int) []byte {
			return append(append(to, jaegerSpanOf(i%1000+1, 0)...), ',')
		}, hostile, nil, exitLeftOut, "is not 16 bytes"},
		{"processes of Jaeger", jaegerDocument([]string{jaegerSpanOf(1, 0)}) + `{"spans":[],"processes":{`, `"p":{}}}`, func(to []byte, i int) []byte {
			return fmt.Appendf(to, `"p%d":{"serviceName":"%s"},`, i, padding[:200])
		}, hostile, nil, exitLeftOut, "processes beyond the first"},
		{"spans of stdouttrace", "", "", func(to []byte, i int) []byte {
			return append(append(to, stdoutSpanOf(i+1, i)...), '\n')
		}, hostile, nil, exitLeftOut, "the limit for all spans is reached"},
		{"one field of stdouttrace many times", strings.TrimSuffix(stdoutSpanOf(1, 0), "}"), "}", filler(`,"Attributes":[{"Key":"hopbound.x"}]`), hostile, nil, 0, ""},
		{"one line of nonsense", document(good) + "\n", "", filler("nonsense"), hostile, nil, exitLeftOut, "left out"},
	} {
		runtime.GC()
		s := &stream{part: tc.part, size: tc.size}
		var out, log bytes.Buffer
		code := run(tc.args, io.MultiReader(strings.NewReader(tc.head), s, strings.NewReader(tc.tail)), &out, &log, limits)
		if code != tc.code || !strings.Contains(log.String(), tc.log) || log.Len() > 1<<14 {
			t.Errorf("%s: exit %d, %.500s", tc.name, code, log.String())
		}
		if s.peak > bound {
			t.Errorf("%s: a heap of %d MiB for an input of %d MiB", tc.name, s.peak>>20, s.bytes>>20)
		}
		t.Logf("%s: %d MiB, a heap of %d MiB", tc.name, s.bytes>>20, s.peak>>20)
	}
}
