import { shape } from "./dom.js";

const height = 170, left = 44, right = 10, top = 10, bottom = 22, span = 180_000;

// draw draws the chart of the last three minutes, with a line for each stack.
export function draw(where, history, chart) {
  const width = Math.max(where.clientWidth, 240); // one unit per pixel, so that the text has its nominal size
  const scale = chart.log ? Math.log10 : (v) => v;
  const low = scale(chart.low), high = scale(chart.high);
  const y = (v) => height - bottom - (height - top - bottom) * (Math.min(Math.max(scale(v), low), high) - low) / (high - low);
  const newest = Math.max(...Object.values(history).map((points) => points.at(-1)?.time ?? 0));
  const x = (t) => left + (width - left - right) * (1 - (newest - t) / span);
  const parts = [];
  for (const tick of chart.ticks) {
    parts.push(shape("line", { class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }));
    parts.push(shape("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, chart.text(tick)));
  }
  for (const [ago, text] of [[180_000, "3 min ago"], [90_000, "90 s"], [0, "now"]]) {
    parts.push(shape("text", { x: x(newest - ago), y: height - 6, "text-anchor": ago === 0 ? "end" : ago === 180_000 ? "start" : "middle" }, text));
  }
  const labels = [];
  for (const stack of ["native", "hopbound"]) {
    const points = (history[stack] ?? []).filter((p) => newest - p.time <= span);
    if (points.length === 0) continue;
    const d = points.map((p, i) => `${i ? "L" : "M"}${x(p.time).toFixed(1)} ${y(chart.value(p)).toFixed(1)}`).join("");
    parts.push(shape("path", { class: `line ${stack}`, d }));
    labels.push(chart.label(stack, points.at(-1)));
  }
  where.replaceChildren(shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": labels.join(". ") }, ...parts));
}
