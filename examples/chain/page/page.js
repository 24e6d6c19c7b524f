import { showTrace } from "./waterfall.js";
import { draw } from "./charts.js";
import { make } from "./dom.js";

const names = { native: "gRPC’s own retries", hopbound: "Hopbound" };
const faults = {
  healthy: () => "The leaf is healthy.",
  down: () => "The leaf fails every call.",
  slow: (now) => `The leaf takes 0.6 to 1.2 s per call. Users wait for ${now.timeout} s. The leaf does not notice when they give up.`,
  failing: () => "The leaf fails 10 % of its calls.",
  lost: () => "The leaf loses 10 % of its replies, together with the connection. With Hopbound, a lost reply costs all tokens that its attempt held, because it is unknown how many were used.",
};
const $ = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(share > 0.995 && share < 1 ? 1 : 0)} %`;
const number = (n) => (n >= 100 ? n.toFixed(0) : n >= 10 ? n.toFixed(1) : n.toFixed(2));

let last = 0; // when the last event arrived
let opened = null; // the request in the waterfall

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

// The page's content.

function show(now) {
  $("window").textContent = now.window;
  for (const button of document.querySelectorAll("[data-fault]")) {
    button.setAttribute("aria-pressed", String(button.dataset.fault === now.fault));
  }
  const said = faults[now.fault](now);
  if ($("said").textContent !== said) $("said").textContent = said;
  const stacks = ["native", "hopbound"].filter((s) => now.stacks[s]);
  $("tiles").replaceChildren(...stacks.map((s) => tile(s, now.stacks[s])));
  draw($("chart-amplification"), now.history, {
    value: (p) => Math.max(p.amplification, 0.5), log: true, low: 0.5, high: 1000, ticks: [1, 10, 100, 1000], text: String,
    label: (s, p) => `${names[s]}: ${number(p.amplification)} leaf calls per request`,
  });
  draw($("chart-success"), now.history, {
    value: (p) => p.success, low: 0, high: 1, ticks: [0, 0.5, 1], text: (v) => `${100 * v} %`,
    label: (s, p) => `${names[s]}: ${percent(p.success)} of requests succeed`,
  });
  $("chains").replaceChildren(...stacks.flatMap((s) => chain(s, now.stacks[s])));
  list(now, stacks);
}

function tile(stack, s) {
  const value = (name, text, id) => make("div", {}, make("dt", {}, name), make("dd", id ? { id } : {}, text));
  return make("div", { class: `tile ${stack}` },
    make("h3", {}, names[stack]),
    make("dl", {},
      value("leaf calls per request", number(s.amplification), `amplification-${stack}`),
      value("requests that succeed", percent(s.success), `success-${stack}`),
      value("requests per second", number(s.rate)),
      value("median wait", `${number(s.p50)} ms`),
      value("99th percentile wait", `${number(s.p99)} ms`)));
}

function chain(stack, s) {
  const slots = Math.max(3, ...s.hops.map((h) => Math.ceil(h.balance)));
  const cards = s.hops.map((h, i) => {
    const lines = [make("b", {}, h.name === "user" ? "users" : i === s.hops.length - 1 ? `${h.name} (the leaf)` : h.name)];
    lines.push(make("span", {}, i === 0 ? `${number(h.rate)} requests/s` : `${number(h.rate)} calls/s`));
    if (i > 0) lines.push(make("span", { class: h.perRequest > 1.5 ? "much" : "" }, `${number(h.perRequest)} per request`));
    lines.push(make("span", {}, `${percent(h.failed)} fail`));
    if (h.wasted > 0.02) lines.push(make("span", { class: "much" }, `wasted work: ${number(h.wasted)} s per second`));
    if (stack === "hopbound") {
      if (i > 0) lines.push(make("span", {}, `${Math.round(h.headroom)} ms left on arrival`));
      if (i < s.hops.length - 1) lines.push(tokens(h.balance, slots));
      for (const [decision, rate] of Object.entries(h.decisions).sort()) {
        if (decision !== "done" && rate > 0.05) lines.push(make("span", {}, `${decision}: ${number(rate)}/s`));
      }
    }
    return make("li", {}, ...lines);
  });
  return [make("h3", { class: stack }, names[stack]), make("ol", { class: `chain ${stack}`, "aria-label": `Hops with ${names[stack]}` }, ...cards)];
}

function tokens(balance, slots) {
  const dots = Array.from({ length: slots }, (_, i) => make("i", { class: i < Math.floor(balance) ? "full" : "" }));
  return make("span", { class: "tokens", role: "img", "aria-label": `${balance.toFixed(1)} tokens for extra attempts at the next service` },
    ...dots, ` ${balance.toFixed(1)} tokens`);
}

// list shows the requests to choose from. While the pointer or the keyboard focus is in
// a list, only the ages in it change, so that no entry moves.
function list(now, stacks) {
  const sorts = ["repeated", "failed", "plain"]; // within each, the latest first
  for (const s of stacks) {
    let box = $(`requests-${s}`);
    if (!box) {
      box = make("ul", { class: "list", id: `requests-${s}`, "aria-label": `Requests with ${names[s]}` });
      $("requests").append(make("div", { class: `tile ${s}` }, make("h3", {}, names[s]), box));
    }
    if (!box.matches(":hover, :focus-within")) {
      const items = (now.traces[s] ?? []).toSorted((a, b) => sorts.indexOf(a.sort) - sorts.indexOf(b.sort)).map((t) => item(s, t));
      box.replaceChildren(...(items.length ? items : [make("li", {}, "None yet.")]));
    }
    for (const button of box.querySelectorAll("button")) {
      button.querySelector(".age").textContent = `${Math.max(0, Math.round(now.time / 1000 - button.dataset.began / 1e6))} s ago: `;
      button.setAttribute("aria-pressed", String(opened === button.dataset.trace));
    }
  }
}

function item(stack, t) {
  const attempts = t.attempts > 1 ? `, up to ${t.attempts} attempts` : t.sort === "repeated" ? ", retried" : "";
  const button = make("button", { "data-trace": t.id, "data-sort": t.sort, "data-attempts": t.attempts, "data-began": t.began },
    make("span", { class: "age" }), `${t.failed ? "failed" : "succeeded"} after ${number(t.took / 1000)} ms, ${t.calls} calls${attempts}`);
  button.addEventListener("click", () => open(stack, t.id));
  return make("li", {}, button);
}

async function open(stack, id) {
  opened = id;
  let trace = null;
  try {
    const answer = await fetch(`trace/${stack}/${id}`);
    if (answer.ok) trace = await answer.json();
  } catch { /* shown as a deleted request */ }
  showTrace(names[stack], trace);
}

listen();
