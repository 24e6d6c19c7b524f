const svg = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// make returns an HTML element.
export function make(name, attributes, ...children) {
  return build(document.createElement(name), attributes, children);
}

// shape returns an SVG element.
export function shape(name, attributes, ...children) {
  return build(document.createElementNS(svg, name), attributes, children);
}

// update gives an element new children. It keeps the old ones that are alike, with their focus: those with the same
// data-key, or at the same place. It sets attributes, but removes none.
export function update(parent, ...children) {
  const wanted = new Set(children.map(key));
  for (const old of [...parent.childNodes]) if (key(old) && !wanted.has(key(old))) old.remove();
  children.forEach((next, i) => {
    const at = parent.childNodes[i] ?? null;
    const old = key(next) ? [...parent.children].find((c) => key(c) === key(next)) : at;
    if (!old || old.nodeName !== next.nodeName || key(old) !== key(next)) {
      parent.insertBefore(next, at);
      return;
    }
    if (old !== at) parent.insertBefore(old, at);
    if (old.nodeType === Node.TEXT_NODE) {
      if (old.data !== next.data) old.data = next.data;
      return;
    }
    for (const { name, value } of next.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    update(old, ...next.childNodes);
  });
  while (parent.childNodes.length > children.length) parent.lastChild.remove();
}

const key = (node) => node.dataset?.key;

// number returns a number with about three digits.
export const number = (n) => (n >= 100 ? n.toFixed(0) : n >= 10 ? n.toFixed(1) : n.toFixed(2));
