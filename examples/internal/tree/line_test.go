package tree_test

import (
	"strings"
	"testing"

	"github.com/hopbound/hopbound/examples/internal/tree"
)

// text returns the lines of a tree without bars.
func text(t *testing.T, spans ...*tree.Span) string {
	t.Helper()
	var out strings.Builder
	if _, err := tree.Write(&out, spans); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestSpansOfOtelgrpcAndGRPCAreAPartOfTheirAttempt(t *testing.T) {
	t.Parallel()
	attempt := []any{"hopbound.attempt", int64(1), "hopbound.decision", "done", "rpc.response.status_code", "OK"}
	own := text(
		t, span("call", "", tree.Other, 0, 100, "hopbound.attempts", int64(1)),
		span("1", "call", tree.Client, 0, 100, attempt...),
		span("3", "1", tree.Server, 20, 80, "hopbound.attempt", int64(1)),
	)
	below := text(
		t, span("call", "", tree.Other, 0, 100, "hopbound.attempts", int64(1)),
		span("1", "call", tree.Other, 0, 100, attempt...),
		span("2", "1", tree.Client, 1, 99, "rpc.response.status_code", "OK"),
		span("3", "2", tree.Server, 20, 80, "hopbound.attempt", int64(1)),
	)
	if own != below || strings.Count(own, "\n") != 3 {
		t.Errorf("%s\nis not\n%s", own, below)
	}
	grpc := []*tree.Span{
		span("2", "1", tree.Client, 1, 99), span("2a", "2", tree.Other, 2, 98), span("3", "2a", tree.Server, 20, 80, "hopbound.attempt", int64(1)),
	}
	for i, prefix := range []string{"Sent.", "Attempt.", "Recv."} {
		grpc[i].Name = prefix + "shop.v1.Cart.Pay"
	}
	withGRPC := text(t, append(
		grpc, span("call", "", tree.Other, 0, 100, "hopbound.attempts", int64(1)), span("1", "call", tree.Other, 0, 100, attempt...),
	)...)
	if own != withGRPC || grpc[2].Method() != "Cart/Pay" {
		t.Errorf("%s\nis not\n%s", own, withGRPC)
	}
	several := text(
		t, span("call", "", tree.Other, 0, 100, "hopbound.attempts", int64(1)),
		span("1", "call", tree.Other, 0, 100, attempt...),
		span("2", "1", tree.Client, 1, 50), span("3", "1", tree.Client, 51, 99),
	)
	if strings.Count(several, "client Cart/Pay") != 2 {
		t.Errorf("two spans below an attempt are not both shown:\n%s", several)
	}
}

func TestAbsentAttributesAreNotPrinted(t *testing.T) {
	t.Parallel()
	for _, s := range []*tree.Span{
		span("1", "", tree.Client, 0, 1, "hopbound.attempt", int64(1)),
		span("1", "", tree.Server, 0, 1),
		{ID: "1", Name: "hopbound.call shop.v1.Cart/Pay"},
	} {
		line := text(t, s)
		for _, not := range []string{"token", "left", "queued", "key", "hedge", "%!", "; ", ", ", `""`} {
			if strings.Contains(line, not) {
				t.Errorf("%q in %s", not, line)
			}
		}
	}
}

func TestQueueingIsPrinted(t *testing.T) {
	t.Parallel()
	for _, ms := range []any{12.5, int64(12)} {
		if line := text(t, span("1", "", tree.Server, 0, 1, "hopbound.deadline.excess_ms", ms)); !strings.Contains(line, "; queued for 12") {
			t.Errorf("%s", line)
		}
	}
	if line := text(t, span("1", "", tree.Server, 0, 1, "hopbound.deadline.excess_ms", 0.0)); strings.Contains(line, "queued") {
		t.Errorf("%s", line)
	}
}

func TestMessageIsPrintedWhereItComesFrom(t *testing.T) {
	t.Parallel()
	out := text(
		t, failed(span("call", "", tree.Other, 0, 100, "hopbound.attempts", int64(1)), "UNAVAILABLE", "disk\x1b full"),
		failed(span("1", "call", tree.Client, 0, 100, "hopbound.attempt", int64(1)), "UNAVAILABLE", "disk\x1b full"),
		failed(span("2", "1", tree.Server, 20, 80), "UNAVAILABLE", "disk\x1b full"),
	)
	if strings.Count(out, "full") != 1 || !strings.HasSuffix(out, `; "disk\x1b full"`+"\n") {
		t.Errorf("%s", out)
	}
}

func TestNumericCodesHaveNames(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "OK", 14: "UNAVAILABLE", 99: "99", -7: "-7", 1 << 40: "1099511627776"} {
		if code := span("1", "", tree.Client, 0, 1, "rpc.grpc.status_code", n).Code(); code != want {
			t.Errorf("%d is %q", n, code)
		}
	}
}

// written counts bytes. Twice as many levels have at most about twice as many bytes, because the indentation is
// bounded.
func TestDeepTreesAreWrittenInLinearSpace(t *testing.T) {
	t.Parallel()
	size := func(n int) int {
		var spans []*tree.Span
		for i := range n {
			spans = append(spans, span(strings.Repeat("x", i+1), strings.Repeat("x", i), tree.Other, 0, 1))
			spans[i].Service = ""
		}
		return len(text(t, spans...))
	}
	if n, twice := size(200), size(400); twice > n*5/2 {
		t.Errorf("%d bytes for 200 levels, %d for 400", n, twice)
	}
}
