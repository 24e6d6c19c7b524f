import { $, make, shape } from "./dom.js";
import { explanation, term } from "./terms.js";
import { rove, settle } from "./keys.js";

const maxRows = 300;
const maxIndent = 32;
const ms = (micros) => `${(micros / 1000).toFixed(micros < 10_000 ? 2 : 0)} ms`;

// The colours of decisions; others are "bad".
const colours = { done: "good", retried: "again", marked: "marked", hedge_lost: "server" };

const reasons = {
  request_tokens: "All tokens of the request were used or lent to other calls, or it had none.",
  target_tokens: "The target budget had no token.",
  retry_throttled: "retryThrottling allowed no retry.",
  passed: "The deadline had passed.", too_short: "The remaining time was too short.",
  cancelled: "The application cancelled the call.", committed: "The application had already received a part of the response.",
};

let chosen = null; // the span of the row that has or had the keyboard focus

// showTrace shows a request's spans in rows on one time axis, and moves the keyboard focus to them.
export function showTrace(name, trace) {
  $("waterfall").hidden = false;
  $("rows").replaceChildren();
  $("why").replaceChildren("Point at a row, tap it, or move to it with the arrow keys, to see its explanation.");
  chosen = null;
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
  settle($("rows"));
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
    if (e.name === "hopbound.backoff" && pause > 0) bars.push(shape("rect", { class: "bar pause", x: x(e.at), y: 5, height: 8, width: Math.max(1000 * pause * scale, 2).toFixed(1) }));
  }
  const text = label(s);
  const button = make("button", { type: "button", "data-kind": kind(s), "data-decision": decision(s) ?? "", "aria-label": `${text}, ${ms(s.took)}, level ${s.depth + 1}. ${why(s)}` },
    make("span", { class: "label" }, text),
    shape("svg", { viewBox: `0 0 ${width} 18`, preserveAspectRatio: "none", "aria-hidden": "true" }, ...bars));
  button.style.setProperty("--depth", Math.min(s.depth, maxIndent));
  const choose = () => {
    chosen = s;
    for (const other of document.querySelectorAll("#rows button")) other.setAttribute("aria-current", String(other === button));
    explain(s);
  };
  button.addEventListener("pointerenter", () => explain(s));
  button.addEventListener("focus", choose);
  button.addEventListener("click", choose);
  return make("li", {}, button);
}

const decision = (s) => s.attributes["hopbound.decision"];

function kind(s) {
  if (!s.parent) return "request";
  if (s.kind === "server") return "server";
  if (s.attributes["hopbound.attempts"] !== undefined || s.name.startsWith("hopbound.call")) return "call";
  return "attempt";
}

function colour(s) {
  switch (kind(s)) {
    case "server": return "server";
    case "call": return "call";
    case "attempt": if (decision(s)) return colours[decision(s)] ?? "bad";
  }
  return s.failed ? "bad" : "good";
}

const attempts = (n) => (n === undefined ? "" : n === 1 ? "1 attempt" : `${n} attempts`);
const service = (s) => s.service.replace(/^[a-z]+-/, "");
const words = (...parts) => parts.filter((p) => p !== undefined && p !== "").join(", ");

function label(s) {
  const code = s.attributes["rpc.response.status_code"];
  switch (kind(s)) {
    case "request": return `a user’s request: ${s.failed ? "failed" : "succeeded"}`;
    case "server": return `${service(s)} serves: ${words(code)}`;
    case "call": return `${service(s)} calls: ${words(decision(s), attempts(s.attributes["hopbound.attempts"]))}`;
    default: return `attempt${["", s.attributes["hopbound.attempt"]].join(" ").trimEnd()}: ${words(decision(s), code)}`;
  }
}

function why(s) {
  if (kind(s) === "server" || kind(s) === "request") return s.failed ? `It failed: ${s.message || s.attributes["rpc.response.status_code"] || ""}` : "It succeeded.";
  if (!decision(s)) return s.failed ? "It failed. gRPC does not record whether it was retried." : "It succeeded.";
  return `${explanation(decision(s))} ${reasons[s.attributes["hopbound.reason"]] ?? ""}`.trim();
}

// explain shows the explanation, the attributes and the events of a span.
function explain(s) {
  const value = (v) => (typeof v === "number" ? String(Math.round(v * 1000) / 1000) : String(v));
  const facts = [["took", ms(s.took)], ["service", s.service]];
  if (s.message && !why(s).includes(s.message)) facts.push(["message", s.message]);
  for (const [name, v] of Object.entries(s.attributes).sort()) facts.push([name, name === "hopbound.decision" ? term(v) : value(v)]);
  for (const e of s.events ?? []) {
    facts.push([e.name, `${ms(e.at - s.began)} after its start: ${Object.entries(e.attributes).map(([k, v]) => `${k} ${value(v)}`).join(", ")}`]);
  }
  $("why").replaceChildren(make("strong", {}, label(s)), make("p", {}, why(s)),
    make("dl", {}, ...facts.flatMap(([name, v]) => [make("dt", {}, term(name)), make("dd", {}, v)])));
  settle($("why"));
}

// After the pointer has passed over other rows, the explanation is of the chosen row again.
$("rows").addEventListener("pointerleave", () => { if (chosen) explain(chosen); });
rove($("rows"));
rove($("why"));
