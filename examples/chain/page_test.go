package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
	"github.com/hopbound/hopbound/examples/internal/services"
)

// screenshots is where pictures of the page are written; empty is nowhere.
var screenshots = flag.String("screenshots", "", "write pictures of the live page to this folder")

// browser is a page of a browser without a screen.
type browser struct {
	t   *testing.T
	ctx context.Context
}

func openBrowser(t *testing.T) *browser {
	t.Helper()
	allocator, stop := chromedp.NewExecAllocator(context.Background(),
		chromedp.ExecPath(services.Chromium(t)), chromedp.NoSandbox, chromedp.Headless, chromedp.DisableGPU, chromedp.NoFirstRun,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
		chromedp.UserDataDir(t.TempDir()), chromedp.WindowSize(1280, 1700))
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(cancel)
	b := &browser{t: t, ctx: ctx}
	b.do(chromedp.Navigate("about:blank"))
	return b
}

func (b *browser) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, steps...); err != nil {
		b.t.Fatal(err)
	}
}

// evaluate returns what an expression of JavaScript comes to.
func evaluate[T any](b *browser, expression string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// await waits until an expression of JavaScript is true.
func (b *browser) await(expression string) {
	b.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if evaluate[bool](b, expression) {
			return
		}
	}
	b.t.Fatalf("%s has not come true; the page says:\n%s", expression, evaluate[string](b, "document.body.innerText"))
}

func (b *browser) number(id string) float64 {
	b.t.Helper()
	text := evaluate[string](b, fmt.Sprintf("document.getElementById(%q)?.textContent ?? ''", id))
	v, err := strconv.ParseFloat(strings.TrimSuffix(text, " %"), 64)
	if err != nil {
		b.t.Fatalf("%s is %q", id, text)
	}
	return v
}

// shoot takes a picture of the whole page.
func (b *browser) shoot(name string) {
	b.t.Helper()
	if *screenshots == "" {
		return
	}
	picture, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(*screenshots, name), picture, 0o600); err != nil {
		b.t.Fatal(err)
	}
}

func (b *browser) scheme(name string) {
	b.t.Helper()
	b.do(chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}},
		})
		return err
	}))
}

// The page is used as a person uses it: the leaf is put down by the keyboard,
// native retries multiply and Hopbound's do not, and one of its requests is opened
// and read.
func TestPageShowsAnOutage(t *testing.T) { //nolint:paralleltest // it takes the machine
	page, quit := startLive(t)
	stream := bufio.NewScanner(get(t, page+"/events"))
	stream.Buffer(nil, 1<<20)
	for now := next(t, stream); len(now.History[hopbound]) <= liveWindow; now = next(t, stream) {
		continue // until the numbers are over as many seconds as they say
	}
	b := openBrowser(t)
	b.do(chromedp.EmulateViewport(1280, 1700), chromedp.Navigate(page))
	b.await(`document.getElementById("success-hopbound")?.textContent === "100 %" && document.getElementById("success-native")?.textContent === "100 %"`)
	for _, stack := range []string{"native", "hopbound"} {
		if a := b.number("amplification-" + stack); a < 0.95 || a > 1.05 { // some are under way
			t.Errorf("%s has %v leaf calls for each request while all is well", stack, a)
		}
	}

	b.do(chromedp.Focus(chromedp.CSS("[data-fault=down]")), chromedp.KeyEvent("\r"))
	b.await(`document.querySelector("[data-fault=down]").getAttribute("aria-pressed") === "true"`)
	const chosen = `.hopbound [data-attempts="3"]`
	highest, opened, explained := 0.0, false, false
	enough := 5.0 // a busy machine has not many more, because its users time out
	if *screenshots != "" {
		enough = 200
	}
	for deadline := time.Now().Add(time.Minute); b.number("amplification-native") < enough || b.number("success-hopbound") > 0; time.Sleep(100 * time.Millisecond) {
		highest = max(highest, b.number("amplification-hopbound"))
		if !opened { // there are such requests only until the tokens are spent
			opened = evaluate[bool](b, "[...document.querySelectorAll('"+chosen+"')].slice(-1).map((r) => r.click() ?? true)[0] ?? false")
		}
		// Requests fail sooner with Hopbound, so that its share is lower until the window has no success.
		explained = explained || evaluate[bool](b, `document.getElementById("lower").innerText.includes("A request counts when it ends")`)
		if time.Now().After(deadline) {
			t.Fatalf("after a minute native has %v leaf calls for each request", b.number("amplification-native"))
		}
	}
	b.await(`document.getElementById("lower").hidden`) // both have no success
	t.Logf("leaf calls for each request: native %v, Hopbound at most %v", b.number("amplification-native"), highest)
	if highest >= 1.1 {
		t.Errorf("Hopbound had %v leaf calls for each request", highest)
	}
	if !opened || !explained {
		t.Fatalf("a request with three attempts of a call was opened: %v; the lower share was explained: %v", opened, explained)
	}
	b.await(`document.querySelectorAll("#rows [data-kind=attempt]").length >= 7`)
	labels := evaluate[[]string](b, `[...document.querySelectorAll("#rows [data-kind=attempt] .label")].map((l) => l.textContent.trim())`)
	for _, want := range []string{"attempt 1: retried, UNAVAILABLE", "attempt 2: retried, UNAVAILABLE", "attempt 3: exhausted, UNAVAILABLE"} {
		if !strings.Contains(strings.Join(labels, "\n"), want) {
			t.Errorf("no %q among the attempts:\n%s", want, strings.Join(labels, "\n"))
		}
	}
	b.do(chromedp.MouseEvent(input.DispatchMouseEventTypeMouseMoved, 5, 5), chromedp.Focus(chromedp.CSS("#rows [data-decision=exhausted][data-kind=attempt]")))
	why := evaluate[string](b, `document.getElementById("why").innerText`)
	for _, want := range []string{"the policy allows no more attempts", "hopbound.budget.leased", "hopbound.deadline.remaining_ms", "the last service is down"} {
		if !strings.Contains(why, want) {
			t.Errorf("no %q in\n%s", want, why)
		}
	}
	for decision, colour := range map[string]string{"retried": "again", "exhausted": "bad"} {
		if !evaluate[bool](b, fmt.Sprintf(`document.querySelector("#rows [data-kind=attempt][data-decision=%s] .bar").classList.contains(%q)`, decision, colour)) {
			t.Errorf("an attempt that was %s has another colour than %s", decision, colour)
		}
	}
	for _, want := range []string{"ms left on arrival", "tokens"} {
		if !strings.Contains(evaluate[string](b, `document.getElementById("chains").innerText`), want) {
			t.Errorf("the hops do not show %s", want)
		}
	}
	b.shoot("live-down.png")
	b.hover("#rows [data-kind=attempt][data-decision=retried]")
	b.await(`document.getElementById("why").innerText.includes("It failed, and was retried")`)
	looksRight(b)

	quit()
	b.await(`!document.getElementById("lost").hidden`)
	b.await(`document.getElementById("age").textContent !== ""`)
	if said := evaluate[string](b, `document.getElementById("lost").textContent`); !strings.Contains(said, "is lost") || !strings.Contains(said, "s old") {
		t.Errorf("the page says %q", said)
	}
}

// looksRight checks the page in the dark and at phone width.
func looksRight(b *browser) {
	b.t.Helper()
	ground := evaluate[string](b, "getComputedStyle(document.body).backgroundColor")
	b.scheme("dark")
	if dark := evaluate[string](b, "getComputedStyle(document.body).backgroundColor"); dark == ground {
		b.t.Errorf("the page is %s in the dark too", dark)
	}
	contrasts(b)
	b.shoot("live-dark.png")
	b.scheme("light")
	contrasts(b)
	b.do(chromedp.EmulateViewport(360, 740))
	if width := evaluate[float64](b, "document.documentElement.scrollWidth"); width > 360 {
		b.t.Errorf("the page is %v wide on a phone of 360", width)
	}
	b.await(`[...document.querySelectorAll("figure svg")].every((s) => s.viewBox.baseVal.width === s.parentElement.clientWidth)`) // drawn again
	b.shoot("live-phone.png")
	b.do(chromedp.EmulateViewport(1280, 1700))
}

// contrasts checks that every text stands out from its ground by at least 4.5 to 1,
// as WCAG's level AA has it.
func contrasts(b *browser) {
	b.t.Helper()
	bad := evaluate[[]string](b, `(() => {
		const parse = (c) => { const m = c.match(/[\d.]+/g).map(Number); return c.startsWith("color(") ? [m[0] * 255, m[1] * 255, m[2] * 255, m[3] ?? 1] : [m[0], m[1], m[2], m[3] ?? 1]; };
		const light = ([r, g, b]) => { const f = (v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }; return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
		const ground = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3] === 1) return c; } return [255, 255, 255, 1]; };
		const bad = new Set();
		const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
		while (walker.nextNode()) {
			const e = walker.currentNode.parentElement;
			if (!walker.currentNode.textContent.trim() || !e.checkVisibility() || e.closest("noscript")) continue;
			const style = getComputedStyle(e);
			const a = light(parse(e.closest("svg") ? style.fill : style.color)), g = light(ground(e));
			const ratio = (Math.max(a, g) + 0.05) / (Math.min(a, g) + 0.05);
			if (ratio < 4.5) bad.add(ratio.toFixed(2) + ": " + walker.currentNode.textContent.trim());
		}
		return [...bad];
	})()`)
	if len(bad) > 0 {
		b.t.Errorf("text that is hard to read:\n%s", strings.Join(bad, "\n"))
	}
}
