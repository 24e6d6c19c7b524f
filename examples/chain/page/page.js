import { showTrace } from "./waterfall.js";
import { draw } from "./charts.js";
import { make } from "./dom.js";

const names = { native: "gRPC’s own retries", hopbound: "Hopbound" };
const faults = {
  healthy: "The leaf is well.", down: "The leaf fails every call.", slow: "The leaf takes 0.6 to 1.2 s; users wait for 1 s.",
  failing: "The leaf fails one call in ten.", lost: "The leaf answers, but of ten replies one gets lost with its connection.",
};
const $ = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(share > 0.995 && share < 1 ? 1 : 0)} %`;
const number = (n) => (n >= 100 ? n.toFixed(0) : n >= 10 ? n.toFixed(1) : n.toFixed(2));

let last = 0; // when the page was last told anything
let opened = null; // the request that is shown

// The stream.

function listen() {
  const source = new EventSource("events");
  source.onmessage = (message) => {
    last = Date.now();
    $("lost").hidden = true;
    $("main").classList.remove("stale");
    show(JSON.parse(message.data));
  };
  source.onerror = () => {
    warn();
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
  };
}

function warn() {
  const ago = last ? `What you see is ${Math.round((Date.now() - last) / 1000)} s old.` : "There is nothing to show yet.";
  const text = `The stream from the chain is lost. ${ago} Trying again.`;
  if ($("lost").hidden || $("lost").textContent !== text) $("lost").textContent = text;
  $("lost").hidden = false;
  $("main").classList.add("stale");
}

setInterval(() => { if (last && Date.now() - last > 4000) warn(); }, 1000);

// The buttons.

for (const button of document.querySelectorAll("[data-fault]")) {
  button.addEventListener("click", async () => {
    try {
      const answer = await fetch(`fault/${button.dataset.fault}`, { method: "POST" });
      $("said").textContent = answer.ok ? faults[button.dataset.fault] : `That did not work: ${await answer.text()}`;
    } catch {
      $("said").textContent = "That did not work: the chain cannot be reached.";
    }
  });
}

// What is shown.

function show(now) {
  $("window").textContent = now.window;
  for (const button of document.querySelectorAll("[data-fault]")) {
    button.setAttribute("aria-pressed", String(button.dataset.fault === now.fault));
  }
  if (!$("said").textContent) $("said").textContent = faults[now.fault];
  const stacks = ["native", "hopbound"].filter((s) => now.stacks[s]);
  $("tiles").replaceChildren(...stacks.map((s) => tile(s, now.stacks[s])));
  draw($("chart-amplification"), now.history, {
    value: (p) => Math.max(p.amplification, 0.5), log: true, low: 0.5, high: 1000, ticks: [1, 10, 100, 1000], text: String,
    label: (s, p) => `${names[s]}: ${number(p.amplification)} leaf calls for each request`,
  });
  draw($("chart-success"), now.history, {
    value: (p) => p.success, low: 0, high: 1, ticks: [0, 0.5, 1], text: (v) => `${100 * v} %`,
    label: (s, p) => `${names[s]}: ${percent(p.success)} succeed`,
  });
  $("chains").replaceChildren(...stacks.flatMap((s) => chain(s, now.stacks[s])));
  list(now, stacks);
}

function tile(stack, s) {
  const value = (name, text, id) => make("div", {}, make("dt", {}, name), make("dd", id ? { id } : {}, text));
  return make("div", { class: `tile ${stack}` },
    make("h3", {}, names[stack]),
    make("dl", {},
      value("leaf calls for each request", number(s.amplification), `amplification-${stack}`),
      value("requests that succeed", percent(s.success), `success-${stack}`),
      value("requests a second", number(s.rate)),
      value("half of users wait for", `${number(s.p50)} ms`),
      value("99 % wait for at most", `${number(s.p99)} ms`)));
}

function chain(stack, s) {
  const purse = Math.max(4, ...s.hops.map((h) => Math.ceil(h.balance)));
  const cards = s.hops.map((h, i) => {
    const lines = [make("b", {}, h.name === "user" ? "users" : i === s.hops.length - 1 ? `${h.name} (the leaf)` : h.name)];
    lines.push(make("span", {}, i === 0 ? `${number(h.rate)} requests/s` : `${number(h.rate)} calls/s`));
    if (i > 0) lines.push(make("span", { class: h.perRequest > 1.5 ? "much" : "" }, `${number(h.perRequest)} for each request`));
    lines.push(make("span", {}, `${percent(h.failed)} fail`));
    if (stack === "hopbound") {
      if (i > 0) lines.push(make("span", {}, `${Math.round(h.headroom)} ms left on arrival`));
      if (h.wasted > 0.001) lines.push(make("span", { class: "much" }, `${number(1000 * h.wasted)} ms/s worked for nobody`));
      if (i === 0) lines.push(tokens(h.balance, purse));
      for (const [decision, rate] of Object.entries(h.decisions).sort()) {
        if (decision !== "done" && rate > 0.05) lines.push(make("span", {}, `${decision}: ${number(rate)}/s`));
      }
    }
    return make("li", {}, ...lines);
  });
  return [make("h3", { class: stack }, names[stack]), make("ol", { class: `chain ${stack}`, "aria-label": `Hops with ${names[stack]}` }, ...cards)];
}

function tokens(balance, purse) {
  const dots = Array.from({ length: purse }, (_, i) => make("i", { class: i < Math.floor(balance) ? "full" : "" }));
  return make("span", { class: "tokens", role: "img", "aria-label": `${balance.toFixed(1)} tokens for extra attempts in the purse` },
    ...dots, ` ${balance.toFixed(1)} tokens`);
}

// list shows the requests to choose from. It keeps the focus where it is.
function list(now, stacks) {
  const focused = document.activeElement?.dataset?.trace;
  const scrolled = [...document.querySelectorAll(".list")].map((l) => l.scrollTop);
  $("requests").replaceChildren(...stacks.map((s) => {
    const sorts = ["repeated", "failed", "plain"]; // each from the last to the first
    const traces = (now.traces[s] ?? []).toSorted((a, b) => sorts.indexOf(a.sort) - sorts.indexOf(b.sort));
    const items = traces.map((t) => {
      const text = `${t.failed ? "failed" : "succeeded"} after ${number(t.took / 1000)} ms, ${t.calls} calls${t.sort === "repeated" ? ", repeated" : ""}`;
      const button = make("button", { "data-trace": t.id, "data-sort": t.sort, "data-calls": t.calls, "aria-pressed": String(opened === t.id) }, text);
      button.addEventListener("click", () => open(s, t.id));
      return make("li", {}, button);
    });
    return make("div", { class: `tile ${s}` }, make("h3", {}, names[s]),
      items.length ? make("ul", { class: "list", "aria-label": `Requests with ${names[s]}` }, ...items) : make("p", {}, "None yet."));
  }));
  document.querySelectorAll(".list").forEach((l, i) => { l.scrollTop = scrolled[i] ?? 0; });
  if (focused) document.querySelector(`[data-trace="${focused}"]`)?.focus({ preventScroll: true });
}

async function open(stack, id) {
  opened = id;
  let trace = null;
  try {
    const answer = await fetch(`trace/${stack}/${id}`);
    if (answer.ok) trace = await answer.json();
  } catch { /* as if it were gone */ }
  showTrace(names[stack], trace);
}

listen();
