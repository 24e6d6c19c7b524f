package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNativeRetriesMultiplyAndHopboundDoesNot(t *testing.T) {
	t.Parallel()
	var out, log bytes.Buffer
	if code := run(t.Context(), []string{"-depth", "3", "-requests", "100", "-fail", "100%,0", "-json"}, &out, &log); code != 0 {
		t.Fatalf("exit %d: %s", code, log.String())
	}
	var rows []map[string]any
	if err := json.Unmarshal(out.Bytes(), &rows); err != nil {
		t.Fatalf("%v in %s", err, out.String())
	}
	var got []result
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	fields := []string{"stack", "depth", "attempts", "fail", "requests", "leaf_calls_per_request", "calls_per_request", "success", "p50_ms", "p99_ms", "wasted_leaf_ms"}
	for _, row := range rows {
		for _, f := range fields {
			if _, ok := row[f]; !ok || len(row) != len(fields) {
				t.Fatalf("row %v, want the fields %v", row, fields)
			}
		}
	}
	if len(got) != 4 || got[0].Stack != native || got[1].Stack != hopbound {
		t.Fatalf("got %+v", got)
	}
	if got[0].LeafCallsPerRequest != 27 || got[0].CallsPerRequest != 39 || got[0].Success != 0 {
		t.Errorf("native: %+v, want 27 leaf calls of 39", got[0])
	}
	if got[1].LeafCallsPerRequest > 1.2 || got[1].Fail != 1 {
		t.Errorf("hopbound: %+v, want about one leaf call", got[1])
	}
	for _, r := range got[2:] {
		if r.LeafCallsPerRequest != 1 || r.CallsPerRequest != 3 || r.Success != 1 || r.P50 <= 0 || r.P99 < r.P50 {
			t.Errorf("nothing fails: %+v", r)
		}
	}
}

func TestTableAndTraceArePrinted(t *testing.T) {
	t.Parallel()
	var out, log bytes.Buffer
	if code := run(t.Context(), []string{"-depth", "2", "-requests", "3", "-stack", "hopbound"}, &out, &log); code != 0 {
		t.Fatalf("exit %d: %s", code, log.String())
	}
	for _, want := range []string{
		"leaf calls/request", "wasted leaf ms", "       100 %   hopbound",
		"\ncall of the user to HopService/Pass: marked, UNAVAILABLE after 1 attempt and ",
		"\n  attempt 1: marked, UNAVAILABLE after ",
		"lent 5 tokens, 2 tokens used below; ",
		"\n      call of service 1 to HopService/Pass: exhausted, UNAVAILABLE after 3 attempts and ",
		"\n        attempt 1: retried, UNAVAILABLE after ",
		"\n          service 2: UNAVAILABLE after ",
		" ms after UNAVAILABLE\n        attempt 2: retried, ",
		"\n        attempt 3: exhausted, ",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if !strings.Contains(log.String(), "3 of 3 requests") {
		t.Errorf("no progress in %q", log.String())
	}
}

func TestBadFlagsGiveOneLineAndExit2(t *testing.T) {
	t.Parallel()
	for _, args := range []string{
		"-depth 0", "-depth 11", "-depth x", "-attempts 6", "-requests 0", "-requests -1", "-fail 101%", "-fail x", "-fail ,",
		"-stack both,native", "-nonsense", "extra", "-timeout 0s", "-depth 10 -requests 1000000",
	} {
		var out, log bytes.Buffer
		code := run(t.Context(), strings.Fields(args), &out, &log)
		if code != 2 || out.Len() != 0 || strings.Count(log.String(), "\n") != 1 || !strings.HasPrefix(log.String(), "chain: ") {
			t.Errorf("%s: exit %d, %q, %q", args, code, out.String(), log.String())
		}
	}
}

func TestHelpIsAsked(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	if _, err := parse([]string{"-h"}, &log); !errors.Is(err, flag.ErrHelp) || !strings.Contains(log.String(), "-attempts") {
		t.Errorf("%v: %s", err, log.String())
	}
}

func TestSharesAreReadAsPeopleWriteThem(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]float64{"100%": 1, "10%": 0.1, "10": 0.1, "0.1": 0.1, "1": 1, "1%": 0.01, "0": 0, " 50% ": 0.5, "100": 1} {
		if got, err := parseShare(text); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
}

func TestInterruptEndsItAtOnce(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(200*time.Millisecond, cancel)
	var out, log bytes.Buffer
	begun := time.Now()
	code := run(ctx, []string{"-depth", "8", "-stack", "native", "-fail", "100%", "-requests", "100", "-json"}, &out, &log)
	if code != exitInterrupted || out.Len() != 0 || !strings.HasSuffix(log.String(), "chain: interrupted\n") {
		t.Errorf("exit %d, %q, %q", code, out.String(), log.String())
	}
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
}
