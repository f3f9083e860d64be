"use strict";

// The panel beside the image: score threshold, classes, objects, and saving.

const BINS = 40;  // of the histogram of scores

function make(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function swatch(colour) {
  const made = make("i");
  made.style.background = colour;
  return made;
}

const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

// Update everything that depends on the current image.
function fillPanel() {
  const objects = state.current?.objects ?? [];
  element("found").hidden = !objects.length;
  const heights = Array(BINS).fill(0);
  for (const { score } of objects) heights[Math.min(BINS - 1, Math.floor(score * BINS))] += 1;
  const highest = Math.sqrt(Math.max(...heights, 1));
  element("histogram").replaceChildren(...(objects.length ? heights : []).map((count) => {
    const bar = make("i");
    bar.style.height = `${count ? Math.max(6, 100 * Math.sqrt(count) / highest) : 2}%`;
    return bar;
  }));

  const labels = [...new Set(objects.map((object) => object.label))].sort((a, b) => a - b);
  element("classes").replaceChildren(...labels.map((label) => {
    const first = objects.find((object) => object.label === label);
    const box = make("input", { type: "checkbox", checked: !state.hidden.has(label) });
    box.addEventListener("change", () => {
      box.checked ? state.hidden.delete(label) : state.hidden.add(label);
      updateCounts();
    });
    const name = make("span", { textContent: first.name, title: first.name });
    const colour = onlyClass() ? [] : [swatch(first.colour)];
    const row = make("li", {}, make("label", {}, box, ...colour, name, make("small")));
    row.dataset.label = label;
    return row;
  }));
  element("list").replaceChildren(...objects.map((object) => {
    const row = make(
      "button", {}, swatch(object.colour),
      make("span", { textContent: onlyClass() ? `${object.name} ${object.rank}` : object.name }),
      make("small", { textContent: object.area }),
      make("small", { textContent: object.score.toFixed(2) }));
    row.setAttribute("aria-pressed", "false");
    row.addEventListener("pointerenter", () => light(object));
    row.addEventListener("pointerleave", () => light(null));
    row.addEventListener("focus", () => light(object));
    row.addEventListener("blur", () => light(null));
    row.addEventListener("click", () => choose(object === state.chosen ? null : object));
    object.row = row;
    return make("li", {}, row);
  }));
  updateCounts();
}

// Update everything that depends on the visible objects.
function updateCounts() {
  const objects = state.current?.objects ?? [], visible = new Set(visibleObjects(state.current));
  element("least").textContent = state.threshold.toFixed(2);
  [...element("histogram").children].forEach((bar, number) => {
    bar.classList.toggle("in", (number + 0.5) / BINS >= state.threshold);
  });
  for (const row of element("classes").children) {
    const own = objects.filter((object) => object.label === Number(row.dataset.label));
    const reached = own.filter((object) => object.score >= state.threshold).length;
    row.querySelector("small").textContent = `${reached} of ${own.length}`;
    row.querySelector("input").checked = !state.hidden.has(own[0].label);
  }
  const anyHidden = objects.some((object) => state.hidden.has(object.label));
  element("all").textContent = anyHidden ? "show all" : "hide all";
  for (const object of objects) object.row.parentElement.hidden = !visible.has(object);
  if (state.chosen && !visible.has(state.chosen)) choose(null);
  if (state.lit && !visible.has(state.lit)) light(null);
  const words = countWords(objects, visible.size);
  element("count").textContent = words;
  element("objects").setAttribute("aria-label", `${state.current?.name ?? "No image"}. ${words}`);
  element("overlay").disabled = !state.current?.bitmap || !state.current.objects;
  element("json").disabled = !state.images.some((image) => image.objects);
  redraw("objects");
}

function countWords(objects, visible) {
  if (!state.current?.objects) return "";
  if (!objects.length) return "The model found no objects.";
  if (visible || state.hidden.size) return `${visible} of ${plural(objects.length, "object")}`;
  return `No object scores that high; the best score is ${objects[0].score.toFixed(2)}.`;
}

function light(object) {
  if (object === state.lit) return;
  state.lit?.row.classList.remove("lit");
  state.lit = object;
  object?.row.classList.add("lit");
  redraw("highlight");
}

function choose(object) {
  state.chosen?.row.setAttribute("aria-pressed", "false");
  state.chosen = object;
  object?.row.setAttribute("aria-pressed", "true");
  if (object) reveal(object.row);
  redraw("highlight");
}

// Scroll the list only, not the page.
function reveal(row) {
  const list = element("list"), below = row.offsetTop + row.offsetHeight - list.clientHeight;
  list.scrollTop = Math.max(below, Math.min(list.scrollTop, row.offsetTop));
}

element("threshold").addEventListener("input", (event) => {
  state.threshold = Number(event.target.value);
  updateCounts();
});
element("opacity").value = FILL;
element("opacity").addEventListener("input", (event) => {
  state.shown.opacity = Number(event.target.value);
  redraw("objects");
});
for (const layer of ["masks", "boxes", "names"]) {
  element(layer).addEventListener("change", (event) => {
    state.shown[layer] = event.target.checked;
    redraw("objects");
  });
}
element("all").addEventListener("click", () => {
  const labels = state.current.objects.map((object) => object.label);
  if (labels.some((label) => state.hidden.has(label))) state.hidden.clear();
  else for (const label of labels) state.hidden.add(label);
  updateCounts();
});
element("list").addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const rows = [...element("list").children].filter((row) => !row.hidden);
  rows[rows.indexOf(event.target.parentElement) + step]?.firstChild.focus();
});

function save(name, blob) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// Save the image with the visible objects drawn on it, at its own resolution. Small images are
// enlarged as in mrcnn/visual/draw.py; images too large for a canvas are reduced.
element("overlay").addEventListener("click", () => {
  const { bitmap, name } = state.current, longer = Math.max(bitmap.width, bitmap.height);
  const scale = Math.min(Math.max(1, Math.ceil(512 / longer)), 8192 / longer);
  const width = Math.round(bitmap.width * scale), height = Math.round(bitmap.height * scale);
  const unit = Math.min(20, Math.max(11, Math.max(width, height) / 50)) / 12;
  const canvas = make("canvas", { width, height });
  const pen = canvas.getContext("2d"), view = { scale, x: 0, y: 0, unit, width, height };
  drawPixels(pen, bitmap, view);
  drawObjects(pen, visibleObjects(state.current), view, state.shown, onlyClass());
  canvas.toBlob((blob) => save(`${stem(name)}_overlay.png`, blob));
});

// Save the visible objects of all images in the format of `mrcnn predict`.
element("json").addEventListener("click", () => {
  const { class_names, category_ids } = state.model;
  const images = [], annotations = [];
  for (const image of state.images.filter((image) => image.objects)) {
    const { name, width, height } = image, image_id = images.length + 1;
    images.push({ id: image_id, file_name: name, height, width });
    for (const { box, score, label, rle } of visibleObjects(image)) {
      const bbox = edges(box).map((value) => Math.round(value * 1000) / 1000);
      annotations.push({
        id: annotations.length + 1, image_id, category_id: category_ids[label], bbox, score,
        ...(rle && { segmentation: rle }), area: bbox[2] * bbox[3], iscrowd: 0,
      });
    }
  }
  const categories = category_ids.map((id, label) => ({ id, name: class_names[label] }));
  const content = JSON.stringify({ images, categories, annotations });
  const name = images.length === 1 ? stem(images[0].file_name) : "predictions";
  save(`${name}.json`, new Blob([content], { type: "application/json" }));
});

const stem = (name) => name.replace(/\.[^.]*$/, "") || "image";
