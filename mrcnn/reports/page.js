"use strict";

function make(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// Enlarge an image in a dialog; the arrow keys go to the next one.
const shown = make("img"), caption = make("p");
const dialog = make("dialog", {}, shown, caption);
const buttons = [...document.querySelectorAll("figure button")];
let current = 0;

function enlarge(index) {
  const visible = (button) => button.checkVisibility?.() ?? true;
  if (!buttons[index] || !visible(buttons[index])) return;
  current = index;
  const image = buttons[index].firstElementChild;
  shown.src = image.src;
  shown.alt = image.alt;
  caption.textContent = buttons[index].nextElementSibling.innerText;
  if (!dialog.open) dialog.showModal();
}

document.body.append(dialog);
buttons.forEach((button, index) => button.addEventListener("click", () => enlarge(index)));
dialog.addEventListener("click", () => dialog.close());
dialog.addEventListener("keydown", (event) => {
  enlarge(current + ({ ArrowLeft: -1, ArrowRight: 1 }[event.key] ?? NaN));
});

// Show the values of all lines of a chart at the pointer.
for (const plot of document.querySelectorAll(".plot")) {
  const { label, sides, limits, lines } = JSON.parse(plot.dataset.points);
  const rule = make("i"), values = make("div");
  const all = lines.flatMap((line) => line[1]);
  const nearest = (xs, x) => xs.reduce(
    (best, value, i) => (Math.abs(value - x) < Math.abs(xs[best] - x) ? i : best), 0);
  const hide = () => (rule.hidden = values.hidden = true);
  const show = (event) => {
    const { left, width } = plot.getBoundingClientRect();
    const share = ((event.clientX - left) / width - sides[0]) / (sides[1] - sides[0]);
    const x = all[nearest(all, limits[0] + share * (limits[1] - limits[0]))];
    const at = (x - limits[0]) / (limits[1] - limits[0]) * (sides[1] - sides[0]) + sides[0];
    rule.style.left = `${100 * at}%`;
    values.style[at > 0.5 ? "right" : "left"] = `calc(${100 * (at > 0.5 ? 1 - at : at)}% + 8px)`;
    values.style[at > 0.5 ? "left" : "right"] = "auto";
    values.replaceChildren(
      make("b", { textContent: `${label} ${x.toLocaleString("en", { maximumFractionDigits: 3 })}` }),
      ...lines.flatMap(([name, xs, ys], number) => {
        const i = nearest(xs, x);
        // A line that was measured more rarely has no value here.
        if (Math.abs(xs[i] - x) > (limits[1] - limits[0]) / 100) return [];
        const swatch = make("i");
        swatch.style.background = `var(--c${number % 10})`;
        return [make("span", {}, swatch, `${name} ${ys[i]}`)];
      }));
    rule.hidden = values.hidden = false;
  };
  hide();
  plot.append(rule, values);
  plot.addEventListener("pointerdown", show);
  plot.addEventListener("pointermove", show);
  plot.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
}
