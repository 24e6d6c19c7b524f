package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"unicode"

	"github.com/hopbound/hopbound/examples/internal/services"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
)

// exporter writes what it gets by OTLP as the Collector's file exporter does: a line
// for each batch.
type exporter struct {
	ptraceotlp.UnimplementedGRPCServer
	mu   sync.Mutex
	file bytes.Buffer
}

func (e *exporter) Export(_ context.Context, req ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
	line, err := (&ptrace.JSONMarshaler{}).MarshalTraces(req.Traces())
	e.mu.Lock()
	defer e.mu.Unlock()
	e.file.Write(append(line, '\n'))
	return ptraceotlp.NewExportResponse(), err
}

// export runs the example chain against the exporter, and returns what that wrote.
func export(t *testing.T) string {
	t.Helper()
	e := &exporter{}
	address := services.GRPC(t, func(server *grpc.Server) { ptraceotlp.RegisterGRPCServer(server, e) })
	out, err := exec.CommandContext(t.Context(), "go", "run", "../chain", "-depth", "2", "-requests", "1", "-stack", "hopbound", "-otlp", address).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.file.String()
}

func runOn(input string, args ...string) (code int, stdout, stderr string) {
	var out, log bytes.Buffer
	code = run(args, strings.NewReader(input), &out, &log, defaultLimits())
	return code, out.String(), log.String()
}

func TestTreeOfWhatACollectorWrote(t *testing.T) {
	t.Parallel()
	lines := export(t)
	code, out, log := runOn(lines)
	if code != 0 || log != "" {
		t.Fatalf("exit %d: %s", code, log)
	}
	for _, want := range []string{
		"1 request\n",
		"        hop   calls received   per request   failed   calls made   attempts   per call   not retried because\n",
		"   the user                0             –        0            1          1      1.000              marked 1\n",
		"  service 1                1         1.000        1            1          3      3.000           exhausted 1\n",
		"  service 2                3         3.000        3            0          0          –                     –\n",
		"ms  call of the user to HopService/Pass: marked, UNAVAILABLE after 1 attempt and ",
		"ms          attempt 1: retried, UNAVAILABLE after ",
		"ms          backoff of ",
		"ms          attempt 3: exhausted, UNAVAILABLE after ",
		"ms            service 2: UNAVAILABLE after ",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	// Twice the same, and in an envelope, is the same.
	first, _, _ := strings.Cut(lines, "\n")
	for _, input := range []string{lines + lines, lines + `{"result": ` + first + `}`, "[" + strings.ReplaceAll(strings.TrimSpace(lines), "\n", ",\n") + "]"} {
		if code, again, log := runOn(input); code != 0 || again != out {
			t.Errorf("exit %d, %s\n%s", code, log, again)
		}
	}
}

const (
	traceID = "4bf92f3577b34da6a3ce929d0e0e4736"
	good    = `{"traceId":"` + traceID + `","spanId":"00f067aa0ba902b7","name":"a","kind":2,"startTimeUnixNano":"1000","endTimeUnixNano":"2000000"}`
)

func document(spans ...string) string {
	return fmt.Sprintf(`{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"shop"}}]},"scopeSpans":[{"spans":[%s]}]}]}`, strings.Join(spans, ",\n"))
}

func TestMalformedIsNamedByItsLineAndLeftOut(t *testing.T) {
	t.Parallel()
	bad := strings.Replace(good, traceID, "zz", 1)
	for name, tc := range map[string]struct {
		input string
		lines []int
	}{
		"no JSON between":           {document(good) + "\nnonsense\n" + document(good), []int{2}},
		"cut off in a line":         {document(good)[:80] + "\n" + document(good), []int{1}},
		"cut off at the end":        {document(good) + "\n" + document(good)[:80], []int{2}},
		"a span of several":         {document(good, bad, good), []int{2}},
		"spans of two documents":    {document(bad) + "\n" + document(good, bad), []int{1, 3}},
		"a span that is a number":   {document(good, "5"), []int{2}},
		"no id":                     {document(good, strings.Replace(good, "00f067aa0ba902b7", "0000000000000000", 1)), []int{2}},
		"it ends before it begins":  {document(good, strings.Replace(good, `"1000"`, `"3000000"`, 1)), []int{2}},
		"a time that is none":       {document(good, strings.Replace(good, `"1000"`, `"noon"`, 1)), []int{2}},
		"another kind of JSON":      {"{\"metrics\": []}\n" + document(good), []int{1}},
		"resources that are none":   {"{\"resourceSpans\": 7}\n" + document(good), []int{1}},
		"a resource that is a text": {"{\"resourceSpans\": [\"x\"]}\n" + document(good), []int{1}},
	} {
		code, out, log := runOn(tc.input)
		var want []string
		for _, line := range tc.lines {
			want = append(want, fmt.Sprintf("standard input:%d: left out: ", line))
		}
		got := strings.Split(strings.TrimSpace(log), "\n")
		if code != exitLeftOut || len(got) != len(want) || !strings.Contains(out, "shop: server a: ended after 2ms") {
			t.Errorf("%s: exit %d, %q\n%s", name, code, got, out)
			continue
		}
		for i := range want {
			if !strings.HasPrefix(got[i], want[i]) {
				t.Errorf("%s: %q, want %q", name, got[i], want[i])
			}
		}
	}
}

// Spans below themselves, and those with one id at client and server, are shown.
func TestOddTreesAreShown(t *testing.T) {
	t.Parallel()
	circle := strings.Replace(good, `"kind":2`, `"parentSpanId":"00f067aa0ba902b7","kind":2`, 1)
	shared := strings.Replace(good, `"kind":2`, `"kind":3`, 1)
	evil := strings.Replace(good, `"name":"a"`, `"name":"a\u001b[2J\nfake"`, 1)
	for name, tc := range map[string]struct{ input, want string }{
		"circle":           {document(circle), "shop: server a: ended after 2ms (it is below itself)\n"},
		"one id":           {document(good, shared), "shop: client a: ended after 2ms\n"},
		"byte order mark":  {"\xef\xbb\xbf" + document(good), "shop: server a: ended after 2ms\n"},
		"line ends":        {strings.ReplaceAll(document(good, good), "\n", "\r\n"), "shop: server a: ended after 2ms\n"},
		"control":          {document(evil), "shop: server a\ufffd[2J\ufffdfake: ended"},
		"logs and metrics": {"{\"resourceLogs\": []}\n" + document(good) + "\n{\"resourceMetrics\": []}", "shop: server a"},
	} {
		if code, out, log := runOn(tc.input); code != 0 || !strings.Contains(out, tc.want) {
			t.Errorf("%s: exit %d: %s\n%s", name, code, log, out)
		}
	}
}

// Some backends write ids in base64 and kinds by their names, and name resources
// batches.
func TestOtherBackendsForms(t *testing.T) {
	t.Parallel()
	span := strings.NewReplacer(traceID, "S/kvNXezTaajzpKdDg5HNg==", "00f067aa0ba902b7", "APBnqgupArc=", `"kind":2`, `"kind":"SPAN_KIND_SERVER"`).Replace(good)
	input := strings.Replace(document(span), "resourceSpans", "batches", 1)
	for _, in := range []string{input, `{"trace":` + input + `}`, strings.ReplaceAll(input, `"1000"`, `1000`)} {
		if code, out, log := runOn(in); code != 0 || !strings.Contains(out, "Request "+traceID) || !strings.Contains(out, "shop: server a") {
			t.Errorf("exit %d: %s\n%s", code, log, out)
		}
	}
}

func TestRequestIsChosen(t *testing.T) {
	t.Parallel()
	other := strings.NewReplacer(traceID, "4bf92f3577b34da6a3ce929d0e0e4737", `"name":"a"`, `"name":"b"`).Replace(good)
	orphan := strings.NewReplacer("00f067aa0ba902b7", "00f067aa0ba902b8", `"kind":2`, `"parentSpanId":"0123456789abcdef","kind":3`).Replace(good)
	path := filepath.Join(t.TempDir(), "spans.json")
	if err := os.WriteFile(path, []byte(document(good, orphan, other)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{path}, 0, "(its parent is missing)"},
		{[]string{"-trace", "4BF92F3577B34DA6A3CE929D0E0E4737", path}, 0, "server b"},
		{[]string{"-trace", "4bf9", path}, 1, "2 traces have an id that begins with"},
		{[]string{"-trace", "ffff", path}, 1, "no trace has an id that begins with"},
		{[]string{path + ".none"}, 1, "no such file"},
		{[]string{"-nonsense"}, 2, "-nonsense"},
		{[]string{"-h"}, 0, "-failed"},
		{[]string{"-h"}, 0, "3  something was left out"},
		{nil, 1, "there are no spans"},
	} {
		if code, out, log := runOn("", tc.args...); code != tc.code || !strings.Contains(out+log, tc.want) {
			t.Errorf("%v: exit %d\n%s%s", tc.args, code, out, log)
		}
	}
}

// Whatever is read, nothing panics or hangs, and what is not printed is reported.
func FuzzRead(f *testing.F) {
	f.Add([]byte(document(good)))
	f.Add([]byte("[" + document(good) + ",5]\n{\"trace\":{\"batches\":[{}]}}"))
	f.Add([]byte(document(strings.Replace(good, `"kind":2`, `"parentSpanId":"00f067aa0ba902b7","kind":2`, 1))))
	f.Add([]byte(document(good, good, "5")))
	f.Add([]byte(document(good)[:200] + "\n" + document(good, strings.Replace(good, "a", "b", 1))))
	for _, text := range []string{
		jaegerDocument([]string{jaegerSpanOf(1, 0), jaegerSpanOf(2, 1)}), jaegerSample, stdoutSpanOf(1, 0) + "\n" + stdoutSpanOf(2, 1),
		"{\n\t" + stdoutSpanOf(1, 0)[1:] + "\n{\n\t" + stdoutSpanOf(2, 2)[1:60], `{"spans":[],"Name":1,"SpanContext":{},"processes":{"":{}}}`,
	} {
		f.Add([]byte(text))
	}
	small := limits{value: 300, nesting: 6, kept: 1500, request: 1500, reports: 2, hops: 1, list: 1, selected: 1}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, limits := range []limits{defaultLimits(), small} {
			var out, log bytes.Buffer
			code := run(nil, bytes.NewReader(data), &out, &log, limits)
			if (code == 0) != (log.Len() == 0) {
				t.Errorf("exit %d, and %q", code, log.String())
			}
			for _, r := range out.String() + log.String() {
				if r != '\n' && !unicode.IsPrint(r) {
					t.Errorf("%q is printed", r)
				}
			}
			var slowOut, slowLog bytes.Buffer
			slow := run(nil, iotest.OneByteReader(bytes.NewReader(data)), &slowOut, &slowLog, limits)
			if slow != code || slowOut.String() != out.String() || slowLog.String() != log.String() {
				t.Errorf("read byte by byte: exit %d, %s%s\nwithout: exit %d, %s%s", slow, &slowLog, &slowOut, code, &log, &out)
			}
			if lines := strings.Count(log.String(), "\n"); lines > limits.reports+5 {
				t.Errorf("%d lines on standard error", lines)
			}
		}
	})
}
