import { draw } from "./charts.js";
import { $, make, number, update } from "./dom.js";
import { rove, settle } from "./keys.js";
import { whyLower } from "./lower.js";
import { listRequests } from "./requests.js";
import { place, term } from "./terms.js";

const names = { native: "gRPC’s own retries", hopbound: "Hopbound" };
const faults = {
  healthy: () => "The leaf is healthy.",
  down: () => "The leaf fails every call.",
  slow: (now) => `The leaf takes 0.6 to 1.2 s per call. Users wait for ${now.timeout} s. The leaf does not notice when they give up.`,
  failing: () => "The leaf fails 10 % of its calls.",
  lost: () => "The leaf loses 10 % of its replies, together with the connection. With Hopbound, a lost reply costs all tokens that its attempt held, because it is unknown how many were used.",
  lossy: () => "The leaf loses 30 % of its replies, together with the connection.",
  half: () => "The leaf fails half of its calls.",
  replica: () => "One of the leaf's three replicas fails all its calls.",
  dishonest: () => "The leaf reports that it used more tokens than it was lent.",
  stopped: () => "The service in the middle stood still for 2 s.",
  hurried: () => "Users wait for only 3 ms.",
  store: () => "The idempotency stores fail.",
  conflicts: () => "Users send each order again with another item under the same idempotency key.",
};
const percent = (share) => `${(100 * share).toFixed(share > 0.995 && share < 1 ? 1 : 0)} %`;

let last = 0; // when the last event arrived

// The event stream. A hidden page closes it, because a browser opens few connections
// to one server.

let source = null;

function listen() {
  source?.close();
  source = new EventSource("events");
  source.onmessage = (message) => {
    last = Date.now();
    $("lost").hidden = true;
    $("lost").firstElementChild.textContent = "";
    $("main").classList.remove("stale");
    show(JSON.parse(message.data));
  };
  source.onerror = () => {
    warn();
    if (source.readyState === EventSource.CLOSED) setTimeout(() => { if (!document.hidden) listen(); }, 2000);
  };
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) source?.close();
  else listen();
});

function warn() {
  if ($("lost").hidden) $("lost").firstElementChild.textContent = "The connection to the chain is lost. Reconnecting.";
  $("age").textContent = last ? `The numbers are ${Math.round((Date.now() - last) / 1000)} s old.` : "No data has arrived yet.";
  $("lost").hidden = false;
  $("main").classList.add("stale");
}

setInterval(() => { if (last && !document.hidden && Date.now() - last > 4000) warn(); }, 1000);

// The buttons.

for (const button of document.querySelectorAll("[data-fault]")) {
  button.addEventListener("click", async () => {
    try {
      const answer = await fetch(`fault/${button.dataset.fault}`, { method: "POST", signal: AbortSignal.timeout(3000) });
      $("trouble").textContent = answer.ok ? "" : `The fault was not set: ${await answer.text()}`;
    } catch {
      $("trouble").textContent = "The fault was not set: the chain cannot be reached.";
    }
  });
}

// The page's content. Elements stay in place from one snapshot to the next, so that they keep the keyboard focus.

for (const id of ["tiles", "chains"]) rove($(id));

function show(now) {
  $("window").textContent = now.window;
  for (const button of document.querySelectorAll("[data-fault]")) {
    button.setAttribute("aria-pressed", String(button.dataset.fault === now.fault));
  }
  say($("said"), faults[now.fault]?.(now) ?? now.fault);
  const stacks = ["native", "hopbound"].filter((s) => now.stacks[s]);
  update($("tiles"), ...stacks.map((s) => tile(s, now.stacks[s])));
  settle($("tiles"));
  const lower = whyLower(now);
  $("lower").hidden = !lower;
  say($("lower-text"), lower);
  draw($("chart-amplification"), now.history, {
    value: (p) => Math.max(p.amplification, 0.5), log: true, low: 0.5, high: 1000, ticks: [1, 10, 100, 1000], text: String,
    label: (s, p) => `${names[s]}: ${number(p.amplification)} leaf calls per request`,
  });
  draw($("chart-success"), now.history, {
    value: (p) => p.success, low: 0, high: 1, ticks: [0, 0.5, 1], text: (v) => `${100 * v} %`,
    label: (s, p) => `${names[s]}: ${percent(p.success)} of requests succeed`,
  });
  const hops = now.stacks[stacks[0]].hops.length;
  $("chains").style.setProperty("--hops", hops);
  $("chains").classList.toggle("across", hops <= 7);
  update($("chains"), ...stacks.flatMap((s) => chain(s, now.stacks[s])));
  settle($("chains"));
  for (const s of stacks) listRequests(now, s, names[s]);
  place();
}

// say changes a text only if it is another one, so that screen readers do not repeat it.
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function tile(stack, s) {
  const value = (name, what, text, id) => make("div", {}, make("dt", {}, term(name, what)), make("dd", id ? { id } : {}, text));
  return make("div", { class: `tile ${stack}` },
    make("h3", {}, term(stack, names[stack])),
    make("dl", {},
      value("amplification", "leaf calls per request", number(s.amplification), `amplification-${stack}`),
      value("success", "requests that succeed", percent(s.success), `success-${stack}`),
      value("rate", "requests per second", number(s.rate)),
      value("p50", "median wait", `${number(s.p50)} ms`),
      value("p99", "99th percentile wait", `${number(s.p99)} ms`)));
}

function chain(stack, s) {
  const slots = Math.max(3, ...s.hops.map((h) => Math.ceil(h.balance)));
  const cards = s.hops.map((h, i) => {
    const leaf = i === s.hops.length - 1;
    const lines = [];
    const line = (name, before, text, after = "", much = false) => lines.push(make("span", { "data-key": name, class: much ? "much" : "" }, before, term(name, text), after));
    if (i === 0) {
      line("rate", `${number(h.rate)} `, "requests/s");
    } else {
      line("call", `${number(h.rate)} `, "calls/s");
      line("per-request", `${number(h.perRequest)} `, "per request", "", h.perRequest > 1.5);
    }
    line("fail", `${percent(h.failed)} `, "fail");
    if (h.wasted > 0.02) line("wasted", "", "wasted work", `: ${number(h.wasted)} s per second`, true);
    if (stack === "hopbound") {
      if (i > 0) line("headroom", `${Math.round(h.headroom)} ms `, "left on arrival");
      if (!leaf) lines.push(tokens(h.balance, slots));
      for (const [decision, rate] of Object.entries(h.decisions).sort()) {
        if (decision !== "done" && rate > 0.05) line(decision, "", decision, `: ${number(rate)}/s`);
      }
    }
    return make("li", { class: stack }, make("b", {}, h.name === "user" ? "users" : leaf ? `${h.name} (the leaf)` : h.name), ...lines);
  });
  return [make("h3", { class: stack }, names[stack]), make("ol", { class: "chain", "aria-label": `Hops with ${names[stack]}` }, ...cards)];
}

function tokens(balance, slots) {
  const dots = Array.from({ length: slots }, (_, i) => make("i", { class: i < Math.floor(balance) ? "full" : "" }));
  return make("span", { "data-key": "tokens", class: "tokens" }, ...dots, ` ${balance.toFixed(1)} `, term("token", "tokens"));
}

listen();
