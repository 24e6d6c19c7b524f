package main

import (
	_ "embed"
	"strings"
	"testing"
)

// jaegerSample has the form of the answer of Jaeger's /api/traces to spans that came by OTLP.
//
//go:embed testdata/jaeger.json
var jaegerSample string

func TestTreeOfWhatJaegerAnswers(t *testing.T) {
	t.Parallel()
	code, out, log := runOn(jaegerSample)
	if code != 0 || log != "" {
		t.Fatalf("exit %d: %s", code, log)
	}
	wantAll(t, out, `
2026-09-21 14:13:20.000  100ms  front    Cart/Pay  UNAVAILABLE  2         00000000000000001f2e3d4c5b6a7988

Request 00000000000000001f2e3d4c5b6a7988: UNAVAILABLE after 100ms, 2 attempts, started at 2026-09-21 14:13:20.000 UTC
cause:  attempt 2 of front to Cart/Pay ended with UNAVAILABLE "connection refused"; the server it called has no span. front made 2 attempts: exhausted.
time:   40.00ms (40%) backoff in front; 30.00ms (30%) front waiting for Cart/Pay, which has no span of a server; 20.00ms (20%) back itself in Cart/Pay

   |0               100.00ms|  own time  *: on the critical path, !: failed
*! |########################|    5.00ms  call of front to Cart/Pay: exhausted, UNAVAILABLE after 2 attempts and 100ms
*! |#######.................|    5.00ms    attempt 1: retried, UNAVAILABLE after 25ms; lent 3 tokens, 0 tokens used below; 1s left
*! |######..................|   20.00ms      back: UNAVAILABLE after 20ms; 0 tokens used here and below; 900ms left; queued for 12ms; "the disk is full"
*  |......##########........|   40.00ms    backoff of 40.00 ms after UNAVAILABLE
*! |...............#########|   30.00ms    attempt 2: exhausted, UNAVAILABLE after 30ms; lent 2 tokens, 0 tokens used below; 936ms left; "connection refused"
`)
}

func TestFormsOfJaegersJSON(t *testing.T) {
	t.Parallel()
	_, want, _ := runOn(jaegerSample)
	spans := jaegerSample[strings.Index(jaegerSample, `"spans":`):strings.Index(jaegerSample, `   "processes"`)]
	processes := jaegerSample[strings.Index(jaegerSample, `"processes"`):strings.Index(jaegerSample, `   "warnings": null
  }
 ],`)]
	for name, input := range map[string]string{
		"the processes first":   `{"data": [{` + processes + spans + `"warnings": null}]}`,
		"a trace alone":         `{"traceID": "1f2e3d4c5b6a7988", ` + spans + strings.TrimRight(processes, ", \n") + `}`,
		"ids without zeros":     strings.NewReplacer(`"00000000000000001f2e`, `"1f2e`, `"00000000000000`, `"`).Replace(jaegerSample),
		"untyped tags":          strings.NewReplacer(`"type": "int64", `, "", `"type": "float64", `, "", `"type": "string", `, "", `"type": "bool", `, "").Replace(strings.ReplaceAll(jaegerSample, `"value": "1"`, `"value": 1`)),
		"names of events":       strings.ReplaceAll(jaegerSample, `"key": "event"`, `"key": "message"`),
		"only the tag error":    strings.ReplaceAll(jaegerSample, `"otel.status_code"`, `"another"`),
		"errors as strings":     strings.NewReplacer(`"otel.status_code"`, `"another"`, `"type": "bool", "value": true`, `"type": "string", "value": "true"`).Replace(jaegerSample),
		"only otel.status_code": strings.ReplaceAll(jaegerSample, `"key": "error"`, `"key": "another"`),
		"twice the same":        jaegerSample + jaegerSample,
	} {
		if code, out, log := runOn(input); code != 0 || out != want {
			t.Errorf("%s: exit %d: %s\n%s", name, code, log, out)
		}
	}
}

func TestOddSpansOfJaegerAreLeftOut(t *testing.T) {
	t.Parallel()
	for name, replaced := range map[string][2]string{
		"a negative duration":   {`"duration": 20000`, `"duration": -1`},
		"an endless duration":   {`"duration": 20000`, `"duration": 9223372036854775807`},
		"a start beyond a time": {`"startTime": 1790000000003000`, `"startTime": 9223372036854775807`},
		"a start before 1970":   {`"startTime": 1790000000003000`, `"startTime": -1`},
		"an id of letters":      {`"spanID": "00000000000000b1"`, `"spanID": "zz"`},
		"an id that is long":    {`"spanID": "00000000000000b1"`, `"spanID": "1000000000000000b1"`},
		"tags that are none":    {`"tags": [`, `"tags": 5, "other": [`},
	} {
		code, out, log := runOn(strings.Replace(jaegerSample, replaced[0], replaced[1], 1))
		if code != exitLeftOut || !strings.Contains(log, ": left out: span: ") || strings.Count(log, "\n") != 1 || !strings.Contains(out, "attempt 2: ") {
			t.Errorf("%s: exit %d: %s", name, code, log)
		}
	}
}

func TestProcessesAreLimited(t *testing.T) {
	t.Parallel()
	var processes strings.Builder
	for i := range maxProcesses + 5 {
		processes.WriteString(`"` + idText(uint64(i)) + `":{"serviceName":"x"},`)
	}
	code, out, log := runOn(strings.Replace(jaegerSample, `"processes": {`, `"processes": {`+processes.String(), 1))
	if code != exitLeftOut || !strings.Contains(log, "7 processes beyond the first 10000\n") || !strings.Contains(out, "call of process p1 to ") {
		t.Errorf("exit %d: %s", code, log)
	}
}
