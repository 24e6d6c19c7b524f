import { make, shape } from "./dom.js";

const $ = (id) => document.getElementById(id);
const most = 300; // rows
const ms = (micros) => `${(micros / 1000).toFixed(micros < 10_000 ? 2 : 0)} ms`;

// What a decision on an attempt means, in a sentence, and its colour.
const decisions = {
  done: ["good", "It succeeded."],
  retried: ["again", "It failed, and another attempt followed."],
  exhausted: ["bad", "Not repeated: the policy allows no more attempts."],
  budget_empty: ["bad", "Not repeated: there was no token for another attempt."],
  deadline: ["bad", "Not repeated: the deadline had passed, or left no time for another attempt."],
  not_retryable: ["bad", "Not repeated: the policy does not repeat such a failure."],
  unsafe: ["bad", "Not repeated: a server may have seen it, and nothing says that it may be repeated."],
  pushback: ["bad", "Not repeated: the server said not to."],
  marked: ["marked", "Not repeated: a hop below has given it up already, next to the failure."],
  hedge_lost: ["server", "Not needed any more: another attempt was sooner."],
};
const reasons = {
  request_tokens: "The request’s tokens were used, lent to its other calls, or it was granted none.",
  target_tokens: "The target is sent no more extra attempts for now.",
  retry_throttled: "retryThrottling has closed.",
  passed: "The deadline had passed.", too_short: "What was left of the deadline was too short.",
  cancelled: "The application cancelled the call.", committed: "The application has had a part of the response.",
};

// showTrace shows a request's spans under each other, on one axis of time.
export function showTrace(name, trace) {
  $("waterfall").hidden = false;
  $("rows").replaceChildren();
  $("why").replaceChildren("Point at a row, or move to it with the keyboard, to see why.");
  if (!trace) {
    $("w-title").textContent = "This request is not kept any more. Choose another.";
    $("w-note").textContent = "";
    $("waterfall").focus();
    return;
  }
  const rows = order(trace.spans);
  const began = Math.min(...trace.spans.map((s) => s.began));
  const ended = Math.max(...trace.spans.map((s) => s.began + s.took));
  const servers = trace.spans.filter((s) => s.kind === "server").length;
  $("w-title").textContent = `A request with ${name}: ${ms(ended - began)}, ${servers} calls served`;
  const hidden = Math.max(0, rows.length - most) + trace.dropped;
  $("w-note").textContent = hidden ? `${Math.min(rows.length, most)} rows of ${rows.length + trace.dropped}; the other ${hidden} are of the same kind.` : "";
  $("rows").replaceChildren(...rows.slice(0, most).map((r) => row(r, began, ended)));
  $("waterfall").focus();
}

// order returns the spans as a tree from top to bottom.
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
  const tell = () => explain(s);
  button.addEventListener("pointerenter", tell);
  button.addEventListener("focus", tell);
  button.addEventListener("click", tell);
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
  const sentence = decisions[decision(s)]?.[1] ?? (s.failed ? "It failed; what came after it, gRPC does not record." : "It succeeded.");
  const more = reasons[s.attributes["hopbound.reason"]] ?? "";
  return kind(s) === "server" || kind(s) === "request" ? (s.failed ? `It failed: ${s.message || s.attributes["rpc.response.status_code"] || ""}` : "It succeeded.") : `${sentence} ${more}`.trim();
}

// explain says all there is to say of a span.
function explain(s) {
  const facts = [["took", ms(s.took)], ["service", s.service]];
  if (s.message) facts.push(["message", s.message]);
  for (const [name, value] of Object.entries(s.attributes).sort()) facts.push([name, typeof value === "number" ? String(Math.round(value * 1000) / 1000) : String(value)]);
  for (const e of s.events ?? []) {
    facts.push([e.name, `${ms(e.at - s.began)} after its begin: ${Object.entries(e.attributes).map(([k, v]) => `${k} ${typeof v === "number" ? Math.round(v * 1000) / 1000 : v}`).join(", ")}`]);
  }
  $("why").replaceChildren(make("strong", {}, label(s)), why(s),
    make("dl", {}, ...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])));
}
