"use strict";

// The image and its objects on three stacked canvases; only stale layers are redrawn.

const element = (id) => document.getElementById(id);

const state = {
  model: null,  // the answer of /model
  images: [],
  current: null,  // the image on the stage
  threshold: 0.5,
  hidden: new Set(),  // labels of classes
  shown: { masks: true, boxes: true, names: true, opacity: FILL },
  lit: null,  // the object under the pointer, or focused in the list
  chosen: null,  // the object that was clicked
};
const stage = element("stage");
const LAYERS = ["image", "objects", "highlight"];
const pens = LAYERS.map((id) => element(id).getContext("2d"));
const CLOSEST = 16;  // largest zoom; 1 fits the stage
const stale = new Set();  // layers to draw in the next frame

function visibleObjects(image) {
  const { threshold, hidden } = state;
  return (image?.objects ?? []).filter((o) => o.score >= threshold && !hidden.has(o.label));
}

function redraw(...layers) {
  if (!stale.size) requestAnimationFrame(drawStale);
  for (const layer of layers) stale.add(layer);
}

function drawStale() {
  const image = state.current, view = viewOf(image);
  LAYERS.forEach((layer, number) => {
    if (!stale.has(layer)) return;
    const pen = pens[number], canvas = pen.canvas;
    if (canvas.width !== view.width || canvas.height !== view.height) {
      canvas.width = view.width;
      canvas.height = view.height;
    }
    pen.clearRect(0, 0, view.width, view.height);
    if (!image?.bitmap) return;
    if (layer === "image") drawPixels(pen, image.bitmap, view);
    const { lit, chosen } = state;
    if (layer === "objects") {
      drawObjects(pen, visibleObjects(image), view, state.shown, onlyClass());
    } else if (layer === "highlight") {
      if (chosen) drawHighlight(pen, chosen, view, true, image);
      if (lit && lit !== chosen) drawHighlight(pen, lit, view, false, image);
    }
  });
  stale.clear();
}

function onlyClass() {
  return state.model.class_names.length === 1;
}

// Position of the image on the canvases: centred, or moved and enlarged, but always visible.
function viewOf(image) {
  const unit = window.devicePixelRatio || 1;
  const width = Math.round(stage.clientWidth * unit);
  const height = Math.round(stage.clientHeight * unit);
  if (!image?.width) return { scale: 1, x: 0, y: 0, unit, width, height };
  const scale = Math.min(width / image.width, height / image.height) * image.zoom;
  const place = (centre, side, room) => {
    const half = room / 2 / scale;
    const inside = side < 2 * half ? side / 2 : Math.max(half, Math.min(centre, side - half));
    return room / 2 - inside * scale;
  };
  const [x, y] = [
    place(image.centre[0], image.width, width), place(image.centre[1], image.height, height),
  ];
  return { scale, x, y, unit, width, height };
}

// The image pixel under a pointer.
function pixelAt(event, view) {
  const { left, top } = element("image").getBoundingClientRect();
  return [
    ((event.clientX - left) * view.unit - view.x) / view.scale,
    ((event.clientY - top) * view.unit - view.y) / view.scale,
  ];
}

// The smallest visible object at a point, so that objects inside others can be selected.
function objectAt([x, y]) {
  let best = null, smallest = Infinity;
  for (const object of visibleObjects(state.current)) {
    const [left, top, width, height] = edges(object.box);
    const inBox = x >= left && x < left + width && y >= top && y < top + height;
    // Masks may reach beyond their boxes by a pixel; paths are in pixels of the image.
    if (object.path ? !pens[2].isPointInPath(object.path, x, y) : !inBox) continue;
    if (width * height < smallest) [best, smallest] = [object, width * height];
  }
  return best;
}

function zoomTo(zoom, fixed) {
  const image = state.current;
  if (!image?.bitmap) return;
  const before = viewOf(image);
  const [x, y] = fixed ?? [
    (before.width / 2 - before.x) / before.scale, (before.height / 2 - before.y) / before.scale,
  ];
  const at = [before.x + x * before.scale, before.y + y * before.scale];
  const ratio = Math.max(1, Math.min(CLOSEST, zoom)) / image.zoom;
  image.zoom *= ratio;
  const scale = before.scale * ratio;
  moveTo(x + (before.width / 2 - at[0]) / scale, y + (before.height / 2 - at[1]) / scale);
}

function moveTo(x, y) {
  const image = state.current;
  image.centre = [x, y];
  const view = viewOf(image);  // it keeps the centre inside
  image.centre = [(view.width / 2 - view.x) / view.scale, (view.height / 2 - view.y) / view.scale];
  stage.classList.toggle("close", image.zoom > 1);
  redraw(...LAYERS);
}

let pressed = null;  // where the pointer went down, and the centre then

stage.addEventListener("pointerdown", (event) => {
  if (!state.current?.bitmap || event.button !== 0 || event.target !== stage) return;
  pressed = { x: event.clientX, y: event.clientY, centre: state.current.centre, moved: false };
  stage.setPointerCapture(event.pointerId);
});
stage.addEventListener("pointermove", (event) => {
  if (!state.current?.bitmap) return;
  const view = viewOf(state.current);
  if (!pressed) {
    if (event.pointerType === "mouse") light(objectAt(pixelAt(event, view)));
    return;
  }
  const [dx, dy] = [event.clientX - pressed.x, event.clientY - pressed.y];
  pressed.moved ||= Math.hypot(dx, dy) > 4;
  if (pressed.moved && state.current.zoom > 1) {
    const [x, y] = pressed.centre, ratio = view.unit / view.scale;
    moveTo(x - dx * ratio, y - dy * ratio);
  }
});
stage.addEventListener("pointerup", (event) => {
  if (pressed && !pressed.moved && state.current?.bitmap) {
    const object = objectAt(pixelAt(event, viewOf(state.current)));
    choose(object === state.chosen ? null : object);
  }
  pressed = null;
});
stage.addEventListener("pointercancel", () => (pressed = null));
stage.addEventListener("pointerleave", () => light(null));
stage.addEventListener("wheel", (event) => {
  if (!state.current?.bitmap) return;
  // If the page itself scrolls, only a pinch gesture (which sets ctrl) zooms.
  if (!event.ctrlKey && document.documentElement.scrollHeight > window.innerHeight) return;
  event.preventDefault();
  const pixels = event.deltaY * (event.deltaMode ? 16 : 1) * (event.ctrlKey ? 4 : 1);
  zoomTo(state.current.zoom * 2 ** (-pixels / 240), pixelAt(event, viewOf(state.current)));
}, { passive: false });
element("closer").addEventListener("click", () => zoomTo(state.current.zoom * 1.5));
element("farther").addEventListener("click", () => zoomTo(state.current.zoom / 1.5));
element("whole").addEventListener("click", () => zoomTo(1));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !state.current) return;
  if (event.key === "Delete") return remove(state.current);
  if (!state.current.bitmap) return;
  if (event.key === "+" || event.key === "=") zoomTo(state.current.zoom * 1.5);
  else if (event.key === "-") zoomTo(state.current.zoom / 1.5);
  else if (event.key === "0") zoomTo(1);
  else if (event.key === "Escape") choose(null);
});
new ResizeObserver(() => redraw(...LAYERS)).observe(stage);
