package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// stop names the element with the keyboard focus: a list by its id, and everything else by its text.
const stop = `(() => {
	const e = document.activeElement;
	return e.closest("ul.list")?.id ?? e.textContent.trim();
})()`

// openTip is true while an explanation is shown.
const openTip = `document.getElementById("tip").matches(":popover-open")`

func (b *browser) press(keys ...string) {
	b.t.Helper()
	for _, k := range keys {
		b.do(chromedp.KeyEvent(k))
	}
}

// focused returns what an expression of JavaScript says of e, the element with the keyboard focus.
func focused[T any](b *browser, expression string) T {
	b.t.Helper()
	return evaluate[T](b, "((e) => "+expression+")(document.activeElement)")
}

// middle returns the middle of the first element that a selector finds.
func (b *browser) middle(selector string) (x, y float64) {
	b.t.Helper()
	at := evaluate[[]float64](b, fmt.Sprintf(`(() => {
		const e = document.querySelector(%q);
		e.scrollIntoView({ block: "center" });
		const box = e.getBoundingClientRect();
		return [box.x + box.width / 2, box.y + box.height / 2];
	})()`, selector))
	return at[0], at[1]
}

func (b *browser) hover(selector string) {
	b.t.Helper()
	x, y := b.middle(selector)
	b.do(chromedp.MouseEvent(input.DispatchMouseEventTypeMouseMoved, x, y))
}

func (b *browser) tap(selector string) {
	b.t.Helper()
	b.do(chromedp.TapXY(b.middle(selector)))
}

// The page is used with the keyboard alone, and then with a pointer and with touch.
func TestPageIsUsableWithEveryInput(t *testing.T) { //nolint:paralleltest // it takes the machine
	page, _ := startLive(t, "-depth", "2")
	b := openBrowser(t)
	b.do(chromedp.EmulateViewport(1280, 900), chromedp.Navigate(page))
	b.await(`document.querySelectorAll("#requests-native [data-trace]").length > 1 && document.querySelectorAll("#requests-hopbound [data-trace]").length > 2`)
	for _, part := range []struct {
		name string
		run  func(*browser)
	}{
		{"the Tab key reaches every part in reading order", tabOrder},
		{"a term with the keyboard focus is explained", termsByKeyboard},
		{"arrow keys move within a group", arrowKeys},
		{"Enter and Space open a request", requestsByKeyboard},
		{"a term under the pointer is explained", termsByPointer},
		{"a term that is tapped is explained", termsByTouch},
		{"every term on the page has an explanation", termsExist},
		{"the latest request is first", latestFirst},
		{"a lower success is explained", lowerSuccess},
	} {
		t.Run(part.name, func(t *testing.T) { part.run(&browser{t: t, ctx: b.ctx}) }) //nolint:paralleltest // they share the page
	}
}

func tabOrder(b *browser) {
	var got []string
	for range 60 {
		b.press(kb.Tab)
		if focused[bool](b, `e.matches(":focus-visible") && getComputedStyle(e).outlineStyle === "none"`) {
			b.t.Errorf("%s shows no focus", evaluate[string](b, stop))
		}
		got = append(got, evaluate[string](b, stop))
		if got[len(got)-1] == "All terms" {
			break
		}
	}
	want := []string{
		"Repository", "Go docs", "Telemetry", "leaf", "idempotency key",
		"Leaf down", "Leaf slow", "10 % failing", "Lost replies", "Recover",
		"gRPC’s own retries", "Leaf calls per request", "Share of requests that succeed", "hop", "deadline", "budget", "decision",
		"requests/s", "request", "trace", "attempt", "call", "retried", "requests-native", "requests-hopbound", "All terms",
	}
	if !slices.Equal(got, want) {
		b.t.Errorf("got  %q\nwant %q", got, want)
	}
}

func termsByKeyboard(b *browser) {
	b.do(chromedp.Focus(chromedp.CSS("header [data-term=leaf]")))
	b.await(openTip)
	said := evaluate[string](b, `document.getElementById("tip").innerText`)
	if !strings.Contains(said, "The last service of the chain") {
		b.t.Errorf("the explanation is %q", said)
	}
	if described := b.description("document.activeElement"); !strings.Contains(described, "The last service of the chain") {
		b.t.Errorf("assistive technology reads %q", described)
	}
	b.press(kb.Escape)
	b.await("!" + openTip)
	if got := evaluate[string](b, stop); got != "leaf" {
		b.t.Errorf("after Escape, the focus is on %q", got)
	}
	for _, key := range []string{kb.Enter, " "} {
		b.press(key)
		b.await(openTip)
		b.press(kb.Escape)
		b.await("!" + openTip)
	}
	b.press(kb.Tab)
	b.await(openTip + ` && document.getElementById("tip").innerText.includes("takes effect once")`)
	b.press(kb.Tab, kb.Tab, kb.Tab, kb.Tab, kb.Tab, kb.Tab, kb.Tab)
	b.await(openTip)
	b.do(chromedp.Focus(chromedp.CSS("#requests-hopbound button")))
	b.await("!" + openTip)
}

// description returns how the browser describes an element to assistive technology.
func (b *browser) description(expression string) string {
	b.t.Helper()
	text := ""
	b.do(chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		object, err := chromedp.Call(ctx, runtime.Evaluate, runtime.EvaluateParams{Expression: expression})
		if err != nil {
			return err
		}
		off := false
		tree, err := chromedp.Call(ctx, accessibility.GetPartialAXTree, accessibility.GetPartialAXTreeParams{ObjectID: object.Result.ObjectID, FetchRelatives: &off})
		if err != nil {
			return err
		}
		if len(tree.Nodes) > 0 && tree.Nodes[0].Description != nil {
			text = string(tree.Nodes[0].Description.Value)
		}
		return nil
	}))
	return text
}

func arrowKeys(b *browser) {
	b.do(chromedp.Focus(chromedp.CSS("#tiles .term")))
	for _, step := range []struct{ key, want string }{
		{kb.ArrowDown, "leaf calls per request"},
		{kb.ArrowRight, "requests that succeed"},
		{kb.ArrowLeft, "leaf calls per request"},
		{kb.ArrowUp, "gRPC’s own retries"},
		{kb.ArrowUp, "gRPC’s own retries"},
		{kb.End, "99th percentile wait"},
		{kb.Home, "gRPC’s own retries"},
	} {
		b.press(step.key)
		if got := evaluate[string](b, stop); got != step.want {
			b.t.Errorf("after %q, the focus is on %q, want %q", step.key, got, step.want)
		}
		b.await(openTip)
	}
	b.press(kb.ArrowDown)
	before := evaluate[string](b, `document.querySelector("#chart-success path").getAttribute("d")`)
	b.await(fmt.Sprintf(`document.querySelector("#chart-success path").getAttribute("d") !== %q`, before)) // the next snapshot
	if got := evaluate[string](b, stop); got != "leaf calls per request" || !evaluate[bool](b, openTip) {
		b.t.Errorf("after a snapshot, the focus is on %q", got)
	}
	b.press(kb.Tab)
	b.do(chromedp.Focus(chromedp.CSS("#requests-native button")))
}

func requestsByKeyboard(b *browser) {
	b.do(chromedp.Focus(chromedp.CSS("#requests-hopbound button[tabindex='0']")))
	b.press(kb.Home)
	for i, key := range []string{kb.Enter, " "} {
		if i > 0 {
			b.do(chromedp.Focus(chromedp.CSS("#requests-hopbound button[tabindex='0']")))
			b.press(kb.Home, kb.ArrowDown)
			if !focused[bool](b, `e === document.querySelectorAll("#requests-hopbound button")[1]`) {
				b.t.Error("the arrow key does not reach the second request")
			}
		}
		id := focused[string](b, "e.dataset.trace")
		b.press(key)
		b.await(fmt.Sprintf(`document.activeElement.id === "waterfall" && [...document.querySelectorAll("[data-trace]")].every((e) => (e.dataset.trace === %q) === (e.getAttribute("aria-current") === "true"))`, id))
		b.await(`document.querySelectorAll("#rows [data-kind=attempt]").length === 2`)
	}
	for range 7 { // the legend
		b.press(kb.Tab)
	}
	b.press(kb.Tab)
	if got := focused[string](b, "e.dataset.kind"); got != "request" {
		b.t.Errorf("the first row is %q", got)
	}
	for _, want := range []struct{ key, kind, why string }{
		{kb.ArrowDown, "call", "It succeeded."},
		{kb.ArrowDown, "attempt", "It succeeded."},
		{kb.ArrowDown, "server", "It succeeded."},
		{kb.End, "server", "hop2"},
		{kb.Home, "request", "hopbound-user"},
	} {
		b.press(want.key)
		if got := focused[string](b, "e.dataset.kind"); got != want.kind {
			b.t.Errorf("the row is %q, want %q", got, want.kind)
		}
		b.await(fmt.Sprintf(`document.getElementById("why").innerText.includes(%q)`, want.why))
	}
	b.press(kb.ArrowDown, kb.ArrowDown, kb.Tab) // from an attempt's row to its attributes
	if got := focused[string](b, `e.closest("#why") ? e.dataset.term : ""`); got != "hopbound.attempt" {
		b.t.Errorf("after the rows, the focus is on %q", got)
	}
	indented := evaluate[[]float64](b, `["request", "call", "attempt", "server"].map((kind) => parseFloat(getComputedStyle(document.querySelector("#rows [data-kind=" + kind + "] .label")).paddingLeft))`)
	if !slices.IsSorted(indented) || len(slices.Compact(indented)) != 4 {
		b.t.Errorf("a request, its call, its attempt and its server are indented by %v", indented)
	}
}

func termsByPointer(b *browser) {
	evaluate[bool](b, "document.activeElement.blur() ?? true")
	b.hover("header [data-term=leaf]")
	b.await(openTip)
	b.hover("#tip > div")
	if !evaluate[bool](b, openTip) {
		b.t.Error("the explanation closes when the pointer moves onto it")
	}
	b.hover("h1")
	b.await("!" + openTip)
	b.hover("#tiles [data-term=amplification]")
	b.await(openTip + ` && document.getElementById("tip").innerText.includes("243")`)
	b.press(kb.Escape)
	b.await("!" + openTip)
	b.hover("#requests-hopbound button")
	if got := evaluate[string](b, `getComputedStyle(document.querySelector("#requests-hopbound button")).cursor`); got != "pointer" {
		b.t.Errorf("over a request, the cursor is %s", got)
	}
	b.await(`getComputedStyle(document.querySelector("#requests-hopbound button:hover")).boxShadow !== "none"`)
	b.hover("h1")
}

func termsByTouch(b *browser) {
	b.tap("header [data-term=leaf]")
	b.await(openTip)
	b.tap("h1")
	b.await("!" + openTip)
	b.tap("#chains [data-term=token]")
	b.await(openTip + ` && document.getElementById("tip").innerText.includes("0.2 more for each success")`)
	inside := evaluate[bool](b, `(() => { const r = document.getElementById("tip").getBoundingClientRect(); return r.left >= 0 && r.top >= 0 && r.right <= innerWidth && r.bottom <= innerHeight; })()`)
	if !inside {
		b.t.Error("the explanation is partly outside of the window")
	}
	b.tap("h1")
	b.await("!" + openTip)
}

func termsExist(b *browser) {
	missing := evaluate[[]string](b, `[...document.querySelectorAll("[data-term]")].map((e) => e.dataset.term).filter((t) => !document.getElementById("term-" + t))`)
	if len(missing) > 0 {
		b.t.Errorf("no explanation of %v", missing)
	}
	for _, decision := range []string{
		"done", "retried", "exhausted", "budget_empty", "deadline", "not_retryable", "unsafe", "pushback", "marked", "hedge_lost",
	} {
		if !evaluate[bool](b, fmt.Sprintf(`document.getElementById("term-%s") !== null`, decision)) {
			b.t.Errorf("no explanation of %s", decision)
		}
	}
}

func latestFirst(b *browser) {
	for _, s := range []stack{native, hopbound} {
		began := evaluate[[]float64](b, fmt.Sprintf(`[...document.querySelectorAll("#requests-%s [data-began]")].map((e) => Number(e.dataset.began))`, s))
		slices.Reverse(began)
		if len(began) == 0 || !slices.IsSorted(began) {
			b.t.Errorf("the requests of %s began at %v", s, began)
		}
	}
}

func lowerSuccess(b *browser) {
	for _, c := range []struct{ name, now, want string }{
		{"as high", `{fault: "down", window: 10, stacks: {native: {success: 0}, hopbound: {success: 0}}}`, ""},
		{"down", `{fault: "down", window: 10, stacks: {native: {success: 0.9, p99: 900}, hopbound: {success: 0.8, p99: 9, hops: []}}}`, "within 9.00 ms, instead of up to 900 ms"},
		{"recovered", `{fault: "healthy", window: 10, stacks: {native: {success: 0.3, amplification: 200}, hopbound: {success: 0.2, amplification: 1, hops: [{decisions: {budget_empty: 8}}]}}}`, "did not retry 80 failures"},
		{"failing", `{fault: "failing", window: 10, stacks: {native: {success: 1, amplification: 1.1}, hopbound: {success: 0.98, amplification: 1.1, hops: [{decisions: {budget_empty: 0.2}}]}}}`, "Five successes of the leaf earn one token"},
		{"slow", `{fault: "slow", window: 10, timeout: 1, stacks: {native: {success: 0.7, amplification: 1}, hopbound: {success: 0.6, rate: 10, amplification: 1, hops: [{decisions: {deadline: 3}}]}}}`, "difference is chance"},
		{"one stack", `{fault: "down", window: 10, stacks: {hopbound: {success: 0}}}`, ""},
	} {
		got, err := chromedp.Run(b.ctx, chromedp.Evaluate[string](`import("/lower.js").then((m) => m.whyLower(`+c.now+`))`, chromedp.EvalAwaitPromise))
		if err != nil || !strings.Contains(got, c.want) || (c.want == "") != (got == "") {
			b.t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
}
