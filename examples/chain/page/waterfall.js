import { make, shape } from "./dom.js";

const $ = (id) => document.getElementById(id);
const maxRows = 300;
const ms = (micros) => `${(micros / 1000).toFixed(micros < 10_000 ? 2 : 0)} ms`;

// The colour and the explanation of each decision.
const decisions = {
  done: ["good", "It succeeded."],
  retried: ["again", "It failed, and was retried."],
  exhausted: ["bad", "Not retried: the policy allows no more attempts."],
  budget_empty: ["bad", "Not retried: there was no token for another attempt."],
  deadline: ["bad", "Not retried: the deadline had passed, or there was no time for another attempt."],
  not_retryable: ["bad", "Not retried: the policy does not retry this status code."],
  unsafe: ["bad", "Not retried: a server may have seen the call, and the method is not declared safe to retry."],
  pushback: ["bad", "Not retried: the server said not to retry."],
  marked: ["marked", "Not retried: a hop below, next to the failure, has marked it non-retryable."],
  hedge_lost: ["server", "Cancelled: another attempt replied first."],
};
const reasons = {
  request_tokens: "All tokens of the request were used or lent to other calls, or it had none.",
  target_tokens: "The target budget had no token.",
  retry_throttled: "retryThrottling allowed no retry.",
  passed: "The deadline had passed.", too_short: "The remaining time was too short.",
  cancelled: "The application cancelled the call.", committed: "The application had already received a part of the response.",
};

// showTrace shows a request's spans in rows on one time axis.
export function showTrace(name, trace) {
  $("waterfall").hidden = false;
  $("rows").replaceChildren();
  $("why").replaceChildren("Point at a row, or move the keyboard focus to it, to see its explanation.");
  if (!trace) {
    $("w-title").textContent = "This request was deleted. Choose another one.";
    $("w-note").textContent = "";
    $("waterfall").focus();
    return;
  }
  const rows = order(trace.spans);
  const began = Math.min(...trace.spans.map((s) => s.began));
  const ended = Math.max(...trace.spans.map((s) => s.began + s.took));
  const servers = trace.spans.filter((s) => s.kind === "server").length;
  $("w-title").textContent = `A request with ${name}: ${ms(ended - began)}, ${servers} calls received by servers`;
  const hidden = Math.max(0, rows.length - maxRows) + trace.dropped;
  $("w-note").textContent = hidden ? `Showing ${Math.min(rows.length, maxRows)} of ${rows.length + trace.dropped} spans.` : "";
  $("rows").replaceChildren(...rows.slice(0, maxRows).map((r) => row(r, began, ended)));
  $("waterfall").focus();
}

// order returns the spans in the order of their tree, with their depths.
function order(spans) {
  const known = new Set(spans.map((s) => s.id)), children = new Map();
  for (const s of spans) {
    const parent = known.has(s.parent) ? s.parent : "";
    if (!children.has(parent)) children.set(parent, []);
    children.get(parent).push(s);
  }
  const rows = [];
  const walk = (parent, depth) => {
    for (const s of (children.get(parent) ?? []).sort((a, b) => a.began - b.began)) {
      rows.push({ ...s, depth });
      walk(s.id, depth + 1);
    }
  };
  walk("", 0);
  return rows;
}

function row(s, began, ended) {
  const width = 1000, scale = width / Math.max(ended - began, 1);
  const x = (t) => ((t - began) * scale).toFixed(1);
  const bars = [shape("rect", { class: `bar ${colour(s)}`, x: x(s.began), y: 3, height: 12, width: Math.max(s.took * scale, 3).toFixed(1) })];
  for (const e of s.events ?? []) {
    const pause = e.attributes["hopbound.backoff_ms"];
    if (e.name === "hopbound.backoff") bars.push(shape("rect", { class: "bar pause", x: x(e.at), y: 5, height: 8, width: Math.max(1000 * pause * scale, 2).toFixed(1) }));
  }
  const text = label(s);
  const button = make("button", { type: "button", "data-kind": kind(s), "data-decision": decision(s) ?? "", "aria-label": `${text}, ${ms(s.took)}. ${why(s)}` },
    make("span", { class: "label" }, `${"\u2003".repeat(Math.min(s.depth, 18) / 2)}${text}`),
    shape("svg", { viewBox: `0 0 ${width} 18`, preserveAspectRatio: "none", "aria-hidden": "true" }, ...bars));
  const show = () => explain(s);
  button.addEventListener("pointerenter", show);
  button.addEventListener("focus", show);
  button.addEventListener("click", show);
  return make("li", {}, button);
}

const decision = (s) => s.attributes["hopbound.decision"];

function kind(s) {
  if (!s.parent) return "request";
  if (s.kind === "server") return "server";
  if (s.attributes["hopbound.attempts"] !== undefined) return "call";
  return "attempt";
}

function colour(s) {
  switch (kind(s)) {
    case "server": return "server";
    case "call": return "call";
    case "request": return s.failed ? "bad" : "good";
    default: return decisions[decision(s)]?.[0] ?? (s.failed ? "bad" : "good");
  }
}

const attempts = (n) => (n === 1 ? "1 attempt" : `${n} attempts`);
const caller = (s) => s.service.replace(/^[a-z]+-/, "");

function label(s) {
  const code = s.attributes["rpc.response.status_code"] ?? "";
  switch (kind(s)) {
    case "request": return `a user’s request: ${s.failed ? "failed" : "succeeded"}`;
    case "server": return `${caller(s)} serves: ${code}`;
    case "call": return `${caller(s)} calls: ${decision(s)}, ${attempts(s.attributes["hopbound.attempts"])}`;
    default: return decision(s) ? `attempt ${s.attributes["hopbound.attempt"]}: ${decision(s)}, ${code}` : `attempt: ${code}`;
  }
}

function why(s) {
  const sentence = decisions[decision(s)]?.[1] ?? (s.failed ? "It failed. gRPC does not record whether it was retried." : "It succeeded.");
  const more = reasons[s.attributes["hopbound.reason"]] ?? "";
  return kind(s) === "server" || kind(s) === "request" ? (s.failed ? `It failed: ${s.message || s.attributes["rpc.response.status_code"] || ""}` : "It succeeded.") : `${sentence} ${more}`.trim();
}

// explain shows the explanation, the attributes and the events of a span.
function explain(s) {
  const facts = [["took", ms(s.took)], ["service", s.service]];
  if (s.message) facts.push(["message", s.message]);
  for (const [name, value] of Object.entries(s.attributes).sort()) facts.push([name, typeof value === "number" ? String(Math.round(value * 1000) / 1000) : String(value)]);
  for (const e of s.events ?? []) {
    facts.push([e.name, `${ms(e.at - s.began)} after its start: ${Object.entries(e.attributes).map(([k, v]) => `${k} ${typeof v === "number" ? Math.round(v * 1000) / 1000 : v}`).join(", ")}`]);
  }
  $("why").replaceChildren(make("strong", {}, label(s)), why(s),
    make("dl", {}, ...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])));
}
