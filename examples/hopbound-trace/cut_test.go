package main

import (
	"fmt"
	"strings"
	"testing"
)

// A file may be cut off anywhere: when a disk is full, or when an exporter is killed. The spans before the cut are shown.
func TestFileThatIsCutOffIsShownUpToTheCut(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		input string
		last  string // what begins the last span
	}{
		"OTLP":        {document(withID(1, 0), withID(2, 0), withID(3, 0)), `{"traceId"`},
		"lines":       {document(withID(1, 0), withID(2, 0)) + "\n" + document(withID(3, 0)), `{"traceId"`},
		"Jaeger":      {jaegerDocument([]string{jaegerSpanOf(1, 0), jaegerSpanOf(2, 0), jaegerSpanOf(3, 0)}), `{"traceID":"` + traceID + `","spanID"`},
		"stdouttrace": {stdoutSpanOf(1, 0) + "\n" + stdoutSpanOf(2, 0) + "\n" + stdoutSpanOf(3, 0), `{"Name"`},
		"pretty stdouttrace": {
			strings.ReplaceAll(stdoutSpanOf(1, 0)+"\n"+stdoutSpanOf(2, 0)+"\n"+stdoutSpanOf(3, 0), `{"Name"`, "{\n\t\"Name\""), "{\n\t\"Name\"",
		},
	} {
		last := strings.LastIndex(tc.input, tc.last)
		whole := len(strings.TrimRight(tc.input, " \n"))
		for cut := last + 1; cut < whole; cut += 3 {
			code, out, log := runOn(tc.input[:cut])
			if code != exitLeftOut || !strings.Contains(log, "the input is cut off") || strings.Count(log, "\n") != 1 {
				t.Errorf("%s: cut after %q: exit %d, %s", name, tc.input[last:cut], code, log)
			}
			if n := strings.Count(out, "server a: ended"); n < 2 || n > 3 {
				t.Errorf("%s: cut after %q: %d spans\n%s", name, tc.input[last:cut], n, out)
			}
		}
	}
}

// A writer that is killed in the middle of a line, and started again, continues the file.
func TestWriterThatStartsAgainLosesOneSpan(t *testing.T) {
	t.Parallel()
	for name, span := range map[string]func(id, parent int) string{
		"stdouttrace":        stdoutSpanOf,
		"pretty stdouttrace": func(id, parent int) string { return "{\n\t" + stdoutSpanOf(id, parent)[1:] },
		"Jaeger":             func(id, parent int) string { return jaegerDocument([]string{jaegerSpanOf(id, parent)}) },
	} {
		cut := span(2, 0)
		for n := 1; n < len(cut); n += 3 {
			if strings.ContainsRune(`"}`, rune(cut[n])) && strings.HasSuffix(cut[:n], "\n") {
				continue
			}
			code, out, log := runOn(span(1, 0) + "\n" + cut[:n] + "\n" + span(3, 0))
			if spans := strings.Count(out, "server a: ended"); code != exitLeftOut || spans < 2 || spans > 3 {
				t.Errorf("%s: cut after %q: exit %d, %d spans, %s", name, cut[:n], code, spans, log)
			}
		}
	}
}

func TestFormatsMayBeMixed(t *testing.T) {
	t.Parallel()
	input := fmt.Sprintln(document(withID(1, 0))) + fmt.Sprintln(jaegerDocument([]string{jaegerSpanOf(2, 1)})) + stdoutSpanOf(3, 2)
	code, out, log := runOn(input)
	if code != 0 || strings.Count(out, "server a: ended") != 3 || strings.Contains(out, "missing") {
		t.Errorf("exit %d, %s\n%s", code, log, out)
	}
}
