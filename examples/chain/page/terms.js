import { $, make } from "./dom.js";

// The explanations of terms are in the glossary at the end of the page. An element with a data-term shows its
// explanation in a tip: under the pointer, with the keyboard focus, and after a tap. Escape closes the tip.

const tip = $("tip");
let shown = null; // the element that the tip explains

const entry = (name) => document.getElementById(`term-${name}`);

// explanation returns the explanation of a term; "" if it has none.
export const explanation = (name) => entry(name)?.textContent ?? "";

// term returns a button with the explanation of a term, or plain text if it has none.
export function term(name, text = name) {
  if (!entry(name)) return make("span", {}, text);
  return make("button", { type: "button", class: "term", "data-term": name, "aria-describedby": `term-${name}` }, text);
}

function show(element) {
  const name = element.dataset.term;
  if (shown === element || !entry(name)) return;
  shown = element;
  tip.replaceChildren(make("div", {}, make("strong", {}, entry(name).previousElementSibling.textContent), explanation(name)));
  tip.showPopover();
  place();
}

function hide() {
  shown = null;
  tip.hidePopover();
}

// place puts the tip above its term, because a term's number is often below it. If there is no room, the tip is below.
// The tip touches the term, so that the pointer can move onto the tip.
export function place() {
  if (!shown) return;
  if (!shown.isConnected) return hide();
  const at = shown.getBoundingClientRect(), size = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(8, Math.min(at.left, document.documentElement.clientWidth - size.width - 8))}px`;
  tip.style.top = `${at.top < size.height ? at.bottom : at.top - size.height}px`;
}

const of = (event) => event.target.closest?.("[data-term]");

document.addEventListener("pointerover", (event) => {
  if (of(event)) show(of(event));
  else if (shown && !tip.contains(event.target) && !shown.matches(":focus-visible")) hide();
});
document.addEventListener("pointerdown", (event) => {
  if (shown && !of(event) && !tip.contains(event.target)) hide();
});
document.addEventListener("focusin", (event) => {
  if (of(event)) show(of(event));
  else if (shown) hide();
});
document.addEventListener("focusout", () => { if (shown) hide(); });
document.addEventListener("click", (event) => { if (of(event)) show(of(event)); });
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && shown) hide(); });
document.addEventListener("scroll", place, { capture: true, passive: true });
addEventListener("resize", place);

// The glossary itself is not in a details element, because its texts could not describe elements while it is closed.
$("all-terms").addEventListener("click", () => {
  const open = $("glossary").hidden;
  $("glossary").hidden = !open;
  $("all-terms").setAttribute("aria-expanded", String(open));
});

for (const element of document.querySelectorAll("[data-term]")) element.setAttribute("aria-describedby", `term-${element.dataset.term}`);
