package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// requestOf returns a document with one request: a call that took a number of milliseconds, and below it a server's
// span of another service.
func requestOf(number, ms int, failed bool, service string) string {
	status, id := "", fmt.Sprintf("%032x", number)
	if failed {
		status = `"status":{"code":2},`
	}
	span := func(id, parent string, kind int) string {
		return fmt.Sprintf(`{"traceId":"%032x","spanId":"%s","parentSpanId":"%s","name":"shop.v1.Cart/Pay","kind":%d,%s"startTimeUnixNano":"1000000000",`+
			`"endTimeUnixNano":"%d","attributes":[{"key":"hopbound.attempt","value":{"intValue":"1"}}]}`, number, id, parent, kind, status, 1000000000+ms*1000000)
	}
	return document(span(id[16:], "", 3)) + "\n" + strings.Replace(document(span("ffffffffffffffff", id[16:], 2)), "shop", service, 1) + "\n"
}

// listed returns the numbers of the requests in the list.
func listed(out string) []int {
	var numbers []int
	for line := range strings.SplitSeq(out, "\n") {
		fields := strings.Fields(line)
		if len(fields) < 8 || !strings.HasPrefix(line, "1970-01-01 00:00:01.000") {
			continue
		}
		var n int
		if _, err := fmt.Sscanf(fields[len(fields)-1], "%x", &n); err == nil {
			numbers = append(numbers, n)
		}
	}
	return numbers
}

func TestRequestsAreSelectedAndSorted(t *testing.T) {
	t.Parallel()
	input := requestOf(1, 500, false, "cart") + requestOf(2, 20, true, "cart") + requestOf(3, 3000, false, "disk") +
		requestOf(4, 2000, true, "disk") + requestOf(5, 1000, false, "cart")
	for _, tc := range []struct {
		args  string
		want  []int
		title string
	}{
		{"", []int{4, 2, 3, 5, 1}, "2 of 5 requests failed. These come first, and then the slowest:\n"},
		{"-failed", []int{4, 2}, "2 of 5 requests failed:\n"},
		{"-slower 1s", []int{4, 3}, "2 of 5 requests took longer than 1s:\n"},
		{"-service cart", []int{2, 5, 1}, "3 of 5 requests have a span of the service \"cart\":\n"},
		{"-failed -slower 100ms", []int{4}, "1 of 5 requests failed and took longer than 100ms:\n"},
		{"-failed -service cart", []int{2}, ""},
		{"-slower 900ms -service cart", []int{5}, ""},
		{"-failed -slower 1ms -service disk", []int{4}, ""},
	} {
		code, out, log := runOn(input, strings.Fields(tc.args)...)
		if got := listed(out); code != 0 || !slices.Equal(got, tc.want) {
			t.Errorf("%s: exit %d, %v, want %v: %s", tc.args, code, got, tc.want, log)
		}
		wantAll(t, out, tc.title, fmt.Sprintf("\nRequest %032x: ", tc.want[0]))
		if hops := strings.Contains(out, "calls received"); hops != (tc.args == "") {
			t.Errorf("%s: whether the hops are printed: %v", tc.args, hops)
		}
	}
	for args, want := range map[string]struct {
		code int
		log  string
	}{
		"-slower 1h":             {exitFailed, "no request took longer than 1h0m0s"},
		"-service nobody":        {exitFailed, `no request has a span of the service "nobody"`},
		"-slower -1s":            {exitUsage, "it must be positive"},
		"-slower 0":              {exitUsage, "it must be positive"},
		"-slower soon":           {exitUsage, "invalid value"},
		"-failed -trace 1":       {exitUsage, "-trace shows one request"},
		"-service cart -trace 1": {exitUsage, "-trace shows one request"},
	} {
		if code, out, log := runOn(input, strings.Fields(args)...); code != want.code || !strings.Contains(log, want.log) || out != "" {
			t.Errorf("%s: exit %d: %s%s", args, code, log, out)
		}
	}
}

func TestListIsLimitedAndSaysHowManyAreLeftOut(t *testing.T) {
	t.Parallel()
	var input strings.Builder
	for _, n := range rand.New(rand.NewPCG(5, 6)).Perm(100) {
		input.WriteString(requestOf(n+1, n+1, n >= 70, "cart"))
	}
	_, out, _ := runOn(input.String())
	got := listed(out)
	if len(got) != 20 || got[0] != 100 || got[19] != 81 || !strings.Contains(out, "\n(80 more, 10 of them failed)\n") {
		t.Errorf("%v\n%s", got, out)
	}
	_, out, _ = runOn(input.String(), "-failed")
	if got := listed(out); len(got) != 30 || strings.Contains(out, "more") {
		t.Errorf("%v\n%s", got, out)
	}
}

// The application's own span may have no status. Then the calls below it show whether the request failed.
func TestRequestOfTheApplicationsSpanFailsWithItsCalls(t *testing.T) {
	t.Parallel()
	root := strings.Replace(withID(1, 0), `"kind":2`, `"kind":1`, 1)
	inner := strings.Replace(withID(2, 1), `"kind":2`, `"kind":1`, 1)
	call := strings.Replace(withID(3, 2), `"kind":2`,
		`"kind":3,"status":{"code":2,"message":"full"},"attributes":[{"key":"rpc.response.status_code","value":{"stringValue":"UNAVAILABLE"}}]`, 1)
	server := strings.Replace(withID(3, 2), `"kind":2`, `"kind":2,"status":{"code":1}`, 1)
	code, out, _ := runOn(document(root, inner, call), "-failed")
	if code != 0 || !strings.Contains(out, "  a       UNAVAILABLE  1 ") || !strings.Contains(out, `cause:  the call of shop to a ended with UNAVAILABLE "full"`) {
		t.Errorf("exit %d\n%s", code, out)
	}
	if code, out, _ := runOn(document(root, inner, server), "-failed"); code != exitFailed {
		t.Errorf("exit %d\n%s", code, out)
	}
}

func TestLastOfSeveralAttemptsDecidesIfTheRootIsMissing(t *testing.T) {
	t.Parallel()
	first := strings.Replace(withID(2, 1), `"kind":2`, `"kind":3,"status":{"code":2}`, 1)
	last := strings.NewReplacer(`"kind":2`, `"kind":3`, `"2000000"`, `"3000000"`).Replace(withID(3, 1))
	if code, out, _ := runOn(document(first, last), "-failed"); code != exitFailed {
		t.Errorf("exit %d\n%s", code, out)
	}
	if _, out, _ := runOn(document(first, last)); !strings.Contains(out, traceID+" (its root is missing)\n") {
		t.Errorf("%s", out)
	}
}
