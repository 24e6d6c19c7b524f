package tree_test

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hopbound/hopbound/examples/internal/tree"
)

// span returns a span that runs from one millisecond of the request to another.
func span(id, parent string, kind tree.Kind, from, to int, attributes ...any) *tree.Span {
	s := &tree.Span{
		ID: id, Parent: parent, Name: "shop.v1.Cart/Pay", Service: "service " + id, Kind: kind,
		Began: at(from), Ended: at(to), Attributes: map[string]any{},
	}
	for i := 0; i < len(attributes); i += 2 {
		name, _ := attributes[i].(string)
		s.Attributes[name] = attributes[i+1]
	}
	return s
}

func at(ms int) time.Time { return time.Unix(1000, 0).Add(time.Duration(ms) * time.Millisecond) }

// written returns the lines of a tree without its header.
func written(t *testing.T, spans ...*tree.Span) []string {
	t.Helper()
	var out strings.Builder
	if _, err := tree.New(spans).Write(&out); err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")[1:]
}

func TestCriticalPathIsTheChainThatEndedLast(t *testing.T) {
	t.Parallel()
	lines := written(
		t,
		span("root", "", tree.Server, 0, 100),
		span("quick", "root", tree.Client, 10, 40),
		span("slow", "root", tree.Client, 10, 80), // the same time as quick, and longer
		span("below", "slow", tree.Server, 20, 70),
		span("last", "root", tree.Client, 85, 95),
	)
	for i, want := range []string{
		"*  |########################|   20.00ms  service root", // 0 to 10, 80 to 85 and 95 to 100
		"   |..--------..............|              service quick",
		"*  |..##################....|   20.00ms    service slow",
		"*  |....#############.......|   50.00ms      service below",
		"*  |....................###.|   10.00ms    service last",
	} {
		if !strings.HasPrefix(lines[i], want) {
			t.Errorf("%q, want %q", lines[i], want)
		}
	}
}

func TestHedgeThatLostIsNotOnTheCriticalPath(t *testing.T) {
	t.Parallel()
	lines := written(
		t,
		span("call", "", tree.Other, 0, 60, "hopbound.attempts", int64(2)),
		span("1", "call", tree.Client, 0, 60, "hopbound.attempt", int64(1), "hopbound.decision", "hedge_lost"),
		span("2", "call", tree.Client, 50, 60, "hopbound.attempt", int64(2), "hopbound.decision", "done", "hopbound.hedge", "won"),
	)
	if strings.HasPrefix(lines[1], "*") || !strings.HasPrefix(lines[2], "*") || !strings.Contains(lines[2], "hedge won") {
		t.Errorf("%s", strings.Join(lines, "\n"))
	}
}

func TestBackoffIsAPartOfTheTime(t *testing.T) {
	t.Parallel()
	call := span("call", "", tree.Other, 0, 100, "hopbound.attempts", int64(2))
	call.Events = []tree.Event{{Name: "hopbound.backoff", At: at(10), Attributes: map[string]any{"hopbound.backoff_ms": float64(70)}}}
	shares := tree.New([]*tree.Span{
		call,
		span("1", "call", tree.Client, 0, 10, "hopbound.attempt", int64(1)),
		span("2", "call", tree.Client, 80, 100, "hopbound.attempt", int64(2)),
	}).Shares()
	if len(shares) == 0 || shares[0] != (tree.Share{Of: "backoff in service call", Took: 70 * time.Millisecond}) {
		t.Errorf("%v", shares)
	}
}

func TestSharesOfTheTimeAddUpToTheRequest(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		spans := []*tree.Span{span("0", "", tree.Server, 0, 1000)}
		for i := range random.IntN(40) {
			from := random.IntN(1100) - 50
			spans = append(spans, span(strconv.Itoa(i+1), strconv.Itoa(random.IntN(i+1)), tree.Kind(random.IntN(3)), from, from+random.IntN(500)))
		}
		var sum time.Duration
		for _, share := range tree.New(spans).Shares() {
			sum += share.Took
		}
		if sum != time.Second {
			t.Fatalf("%v of 1s", sum)
		}
	}
}

func TestServersWithAnotherClockAreMovedIntoTheirAttempts(t *testing.T) {
	t.Parallel()
	for name, shift := range map[string]int{"behind": -5000, "ahead": 7000} {
		lines := written(
			t,
			span("call", "", tree.Other, 0, 100, "hopbound.attempts", int64(1)),
			span("1", "call", tree.Client, 0, 100, "hopbound.attempt", int64(1)),
			span("2", "1", tree.Server, 20+shift, 80+shift, "hopbound.attempt", int64(1)),
			span("3", "2", tree.Other, 40+shift, 60+shift),
		)
		want := fmt.Sprintf("its clock differs: %v added to its times", time.Duration(-shift)*time.Millisecond)
		if !strings.HasPrefix(lines[2], "*  |....################....|   40.00ms") || !strings.Contains(lines[2], want) {
			t.Errorf("%s: %s", name, lines[2])
		}
		if !strings.HasPrefix(lines[3], "*  |.........######.........|   20.00ms") || strings.Contains(lines[3], "clock") {
			t.Errorf("%s: %s", name, lines[3])
		}
	}
}

func TestServerThatWorksAfterItsCallerGaveUpIsNotMoved(t *testing.T) {
	t.Parallel()
	lines := written(
		t,
		span("call", "", tree.Other, 0, 100, "hopbound.attempts", int64(1), "rpc.response.status_code", "DEADLINE_EXCEEDED"),
		span("1", "call", tree.Client, 0, 100, "hopbound.attempt", int64(1), "rpc.response.status_code", "DEADLINE_EXCEEDED"),
		span("2", "1", tree.Server, 50, 900, "hopbound.attempt", int64(1)),
	)
	if !strings.HasPrefix(lines[2], "*  |............###########>|   50.00ms") || strings.Contains(lines[2], "clock") {
		t.Errorf("%s", lines[2])
	}
}
