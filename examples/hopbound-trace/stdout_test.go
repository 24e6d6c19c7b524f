package main

import (
	"strings"
	"testing"

	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
)

// wantAll reports the texts that are missing.
func wantAll(t *testing.T, out string, texts ...string) {
	t.Helper()
	for _, want := range texts {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

func TestTreeOfWhatStdouttraceWrote(t *testing.T) {
	t.Parallel()
	for name, input := range map[string]string{
		"plain":         stdoutTrace(t, 3, false),
		"pretty":        stdoutTrace(t, 3, false, stdouttrace.WithPrettyPrint()),
		"with otelgrpc": stdoutTrace(t, 3, true),
	} {
		code, out, log := runOn(input)
		if code != 0 || log != "" {
			t.Fatalf("%s: exit %d: %s", name, code, log)
		}
		wantAll(
			t, out, "1 of 1 request failed. ", "  user     Health/Check  UNAVAILABLE  4         ",
			`cause:  back answered Health/Check with UNAVAILABLE "the disk\x1b is full". front made 3 attempts: exhausted.`+"\n",
			"ms  call of user to Health/Check: marked, UNAVAILABLE after 1 attempt and ",
			"ms    attempt 1: marked, UNAVAILABLE after ",
			"ms      front: UNAVAILABLE after ",
			"ms        call of front to Health/Check: exhausted, UNAVAILABLE after 3 attempts and ",
			"ms          attempt 2: retried, UNAVAILABLE after ",
			"ms            back: UNAVAILABLE after ",
			"ms          backoff of ",
		)
		if lines := strings.Count(out[strings.Index(out, "own time"):], "\n"); lines != 13 {
			t.Errorf("%s: %d lines\n%s", name, lines, out)
		}
		list := "[" + strings.ReplaceAll(strings.TrimSpace(input), "\n{", "\n,{") + "]"
		if code, again, log := runOn(list); code != 0 || again != out {
			t.Errorf("%s: an array of the spans: exit %d, %s\n%s", name, code, log, again)
		}
	}
}

func TestAttemptsThatWereRepairedAreCounted(t *testing.T) {
	t.Parallel()
	code, out, log := runOn(stdoutTrace(t, 2, false))
	if code != 0 || log != "" {
		t.Fatalf("exit %d: %s", code, log)
	}
	const events = "events: 1 call succeeded after 2 failed attempts (UNAVAILABLE 2)\n"
	if strings.Count(out, events) != 2 || strings.Contains(out, "cause:") { // of all requests, and of the one that is shown
		t.Errorf("%s", out)
	}
}

func TestSpansWithoutTimesAreLeftOut(t *testing.T) {
	t.Parallel()
	code, _, log := runOn(stdoutTrace(t, 0, false, stdouttrace.WithoutTimestamps()))
	if code != exitFailed || !strings.HasPrefix(log, "standard input:1: left out: span: it has no times, or impossible ones\n") {
		t.Errorf("exit %d: %s", code, log)
	}
}
