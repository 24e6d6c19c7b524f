const arrows = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, Home: -Infinity, End: Infinity };

// rove makes the buttons in an element one stop of the Tab key. Arrow keys, Home and End move between the buttons.
export function rove(box) {
  box.addEventListener("keydown", (event) => {
    const all = [...box.querySelectorAll("button")], at = all.indexOf(event.target);
    if (at < 0 || !(event.key in arrows)) return;
    event.preventDefault();
    all[Math.min(Math.max(at + arrows[event.key], 0), all.length - 1)].focus();
  });
  box.addEventListener("focusin", (event) => { if (event.target.closest("button")) settle(box, event.target); });
  settle(box);
}

// settle chooses the button that the Tab key reaches: the given one, or the one that it reached before, or the first.
// Call it after the buttons in the element have changed.
export function settle(box, stop = box.querySelector("button[tabindex='0']") ?? box.querySelector("button")) {
  for (const button of box.querySelectorAll("button")) button.tabIndex = button === stop ? 0 : -1;
}
