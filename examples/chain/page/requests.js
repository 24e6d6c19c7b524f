import { showTrace } from "./waterfall.js";
import { $, make, number, update } from "./dom.js";
import { rove, settle } from "./keys.js";

let opened = null; // the request whose trace is shown

const canHover = matchMedia("(hover: hover)");

// listRequests shows the requests of a stack, latest first. While the pointer or the keyboard focus is in the list,
// only the ages in it change, so that no entry moves.
export function listRequests(now, stack, name) {
  const box = $(`requests-${stack}`) ?? addList(stack, name);
  const used = box.matches(":focus-within") || (canHover.matches && box.matches(":hover"));
  if (!used) {
    const items = (now.traces[stack] ?? []).map(item);
    update(box, ...(items.length ? items : [make("li", {}, "None yet.")]));
    settle(box);
  }
  for (const button of box.querySelectorAll("button")) {
    button.querySelector(".age").textContent = `${Math.max(0, Math.round(now.time / 1000 - button.dataset.began / 1e6))} s ago`;
  }
}

function addList(stack, name) {
  const box = make("ul", { class: "list", id: `requests-${stack}`, "aria-label": `Requests with ${name}, latest first` });
  box.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) open(stack, name, button);
  });
  $("requests").append(make("div", { class: `tile ${stack}` }, make("h3", {}, name), box));
  rove(box);
  return box;
}

function item(t) {
  const [colour, result] = t.failed ? ["bad", "failed"] : t.sort === "repeated" ? ["again", "succeeded"] : ["good", "succeeded"];
  const attempts = t.attempts > 1 ? `${t.attempts} attempts` : t.sort === "repeated" ? "retried" : "";
  return make("li", { "data-key": t.id },
    make("button", { type: "button", "data-trace": t.id, "data-sort": t.sort, "data-attempts": t.attempts, "data-began": t.began, "aria-current": String(opened === t.id) },
      make("span", { class: "age" }), " ",
      make("span", { class: "result" }, make("i", { class: `dot ${colour}` }), result), " ",
      make("span", {}, `${number(t.took / 1000)} ms`), " ",
      make("span", {}, `${t.calls} calls`), " ",
      make("span", { class: "attempts" }, attempts)));
}

async function open(stack, name, button) {
  const id = button.dataset.trace;
  opened = id;
  for (const other of document.querySelectorAll("[data-trace]")) other.setAttribute("aria-current", String(other === button));
  let trace = null;
  try {
    const answer = await fetch(`trace/${stack}/${id}`);
    if (answer.ok) trace = await answer.json();
  } catch { /* shown as a deleted request */ }
  if (opened === id) showTrace(name, trace);
}
