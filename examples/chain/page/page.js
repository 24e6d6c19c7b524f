import { showTrace } from "./waterfall.js";
import { draw } from "./charts.js";
import { make } from "./dom.js";

const names = { native: "gRPC’s own retries", hopbound: "Hopbound" };
const faults = {
  healthy: () => "The leaf is well.",
  down: () => "The leaf fails every call.",
  slow: (now) => `The leaf takes 0.6 to 1.2 s; users wait for ${now.timeout} s. It does not notice that they go.`,
  failing: () => "The leaf fails one call in ten.",
  lost: () => "Of ten replies of the leaf one gets lost, with its connection. With Hopbound, a lost reply costs the tokens that its call held, since nobody knows what became of them.",
};
const $ = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(share > 0.995 && share < 1 ? 1 : 0)} %`;
const number = (n) => (n >= 100 ? n.toFixed(0) : n >= 10 ? n.toFixed(1) : n.toFixed(2));

let last = 0; // when the page was last told anything
let opened = null; // the request that is shown

// The stream. A page that nobody looks at does without, for a browser has few
// connections to one server.

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
  if ($("lost").hidden) $("lost").firstElementChild.textContent = "The stream from the chain is lost. Trying again.";
  $("age").textContent = last ? `What you see is ${Math.round((Date.now() - last) / 1000)} s old.` : "There is nothing to show yet.";
  $("lost").hidden = false;
  $("main").classList.add("stale");
}

setInterval(() => { if (last && !document.hidden && Date.now() - last > 4000) warn(); }, 1000);

// The buttons.

for (const button of document.querySelectorAll("[data-fault]")) {
  button.addEventListener("click", async () => {
    try {
      const answer = await fetch(`fault/${button.dataset.fault}`, { method: "POST", signal: AbortSignal.timeout(3000) });
      $("trouble").textContent = answer.ok ? "" : `That did not work: ${await answer.text()}`;
    } catch {
      $("trouble").textContent = "That did not work: the chain cannot be reached.";
    }
  });
}

// What is shown.

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
  const most = Math.max(3, ...s.hops.map((h) => Math.ceil(h.balance)));
  const cards = s.hops.map((h, i) => {
    const lines = [make("b", {}, h.name === "user" ? "users" : i === s.hops.length - 1 ? `${h.name} (the leaf)` : h.name)];
    lines.push(make("span", {}, i === 0 ? `${number(h.rate)} requests/s` : `${number(h.rate)} calls/s`));
    if (i > 0) lines.push(make("span", { class: h.perRequest > 1.5 ? "much" : "" }, `${number(h.perRequest)} for each request`));
    lines.push(make("span", {}, `${percent(h.failed)} fail`));
    if (h.wasted > 0.02) lines.push(make("span", { class: "much" }, `works ${number(h.wasted)} s in each second for nobody`));
    if (stack === "hopbound") {
      if (i > 0) lines.push(make("span", {}, `${Math.round(h.headroom)} ms left on arrival`));
      if (i < s.hops.length - 1) lines.push(tokens(h.balance, most));
      for (const [decision, rate] of Object.entries(h.decisions).sort()) {
        if (decision !== "done" && rate > 0.05) lines.push(make("span", {}, `${decision}: ${number(rate)}/s`));
      }
    }
    return make("li", {}, ...lines);
  });
  return [make("h3", { class: stack }, names[stack]), make("ol", { class: `chain ${stack}`, "aria-label": `Hops with ${names[stack]}` }, ...cards)];
}

function tokens(balance, most) {
  const dots = Array.from({ length: most }, (_, i) => make("i", { class: i < Math.floor(balance) ? "full" : "" }));
  return make("span", { class: "tokens", role: "img", "aria-label": `${balance.toFixed(1)} tokens for extra attempts at the next service` },
    ...dots, ` ${balance.toFixed(1)} tokens`);
}

// list shows the requests to choose from. While somebody is in a list, only the
// ages there change, so that nothing moves away.
function list(now, stacks) {
  const sorts = ["repeated", "failed", "plain"]; // each from the last to the first
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
  const attempts = t.attempts > 1 ? `, up to ${t.attempts} attempts` : t.sort === "repeated" ? ", repeated" : "";
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
  } catch { /* as if it were gone */ }
  showTrace(names[stack], trace);
}

listen();
