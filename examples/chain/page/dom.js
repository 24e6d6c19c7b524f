const svg = "http://www.w3.org/2000/svg";

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
