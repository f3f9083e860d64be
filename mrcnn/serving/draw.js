"use strict";

// Draw objects on a canvas as mrcnn/visual/draw.py does. A view places the image on the canvas:
// `scale` canvas pixels per image pixel, origin (x, y), `unit` canvas pixels per CSS pixel.

const FEW = 12, MANY = 40;  // number of objects; from MANY on, boxes and overlapping labels are omitted
const FILL = 0.35;  // opacity of masks, unless it is set
const WHITE_INK = 108;  // lightness below which white text has more contrast than black

function maskPath(rle) {
  const path = new Path2D();
  for (const loop of outlines(rle.counts, rle.size[0])) {
    path.moveTo(loop[0], loop[1]);
    for (let i = 2; i < loop.length; i += 2) path.lineTo(loop[i], loop[i + 1]);
    path.closePath();
  }
  return path;
}

function drawPixels(pen, image, view) {
  pen.imageSmoothingEnabled = view.scale < 3 * view.unit;  // show single pixels when zoomed in
  pen.imageSmoothingQuality = "high";
  pen.drawImage(
    image, view.x, view.y, image.width * view.scale, image.height * view.scale);
}

// Draw the first object on top. `shown` selects masks, boxes and names, and the opacity of masks.
function drawObjects(pen, objects, view, shown, onlyClass) {
  const few = objects.length <= FEW, many = objects.length > MANY;
  const masks = shown.masks && objects.some((object) => object.path);
  for (const object of masks ? objects.toReversed() : []) {
    placed(pen, view, () => {
      pen.fillStyle = pen.strokeStyle = object.colour;
      pen.globalAlpha = shown.opacity;
      pen.fill(object.path);
      pen.globalAlpha = 1;
      pen.lineWidth = 1.5 * view.unit / view.scale;
      pen.stroke(object.path);
    });
  }
  if (shown.boxes && !(many && masks)) {
    pen.lineWidth = 1.5 * view.unit;
    for (const object of objects.toReversed()) {
      pen.strokeStyle = object.colour;
      pen.strokeRect(...onCanvas(object.box, view));
    }
  }
  if (!shown.names) return;
  const room = few ? 0 : many ? 1 : 0.4;  // minimum width of a box relative to its label
  const taken = [];
  for (const object of objects) {
    const score = object.score.toFixed(2);
    const text = onlyClass && !few ? score : `${shortened(object.name)} ${score}`;
    drawLabel(pen, text, object, view, room, taken);
  }
}

// Draw one object above all others; `alone` dims the rest of the image.
function drawHighlight(pen, object, view, alone, image) {
  const outline = (colour, width) => {
    pen.strokeStyle = colour;
    pen.lineWidth = width * view.unit / view.scale;
    pen.lineJoin = "round";
    if (object.path) pen.stroke(object.path);
    else pen.strokeRect(...edges(object.box));
  };
  placed(pen, view, () => {
    if (alone) {
      pen.fillStyle = "#000a";
      pen.fillRect(0, 0, image.width, image.height);
      pen.globalCompositeOperation = "destination-out";
      pen.fillStyle = "#000";
      if (object.path) pen.fill(object.path);
      else pen.fillRect(...edges(object.box));
      pen.globalCompositeOperation = "source-over";
    } else if (object.path) {
      pen.fillStyle = object.colour;
      pen.globalAlpha = FILL;
      pen.fill(object.path);
      pen.globalAlpha = 1;
    }
    outline("#fff", 4.5);
    outline(object.colour, 2.5);
  });
  pen.setLineDash([4 * view.unit, 4 * view.unit]);
  pen.lineWidth = 1.5 * view.unit;
  pen.strokeStyle = object.colour;
  if (object.path) pen.strokeRect(...onCanvas(object.box, view));
  pen.setLineDash([]);
  const [, , width, height] = edges(object.box).map(Math.round);
  const text = `${shortened(object.name)} ${object.score.toFixed(2)} · ${width} × ${height}, ${object.area}`;
  drawLabel(pen, text, object, view, 0, []);
}

// Draw a label above, inside or below the box, where no other label is, or not at all.
function drawLabel(pen, text, object, view, room, taken) {
  const unit = view.unit, [left, top, wide, high] = onCanvas(object.box, view);
  pen.font = `600 ${12 * unit}px system-ui, sans-serif`;
  pen.textBaseline = "middle";
  const width = pen.measureText(text).width + 8 * unit, height = 17 * unit;
  if (wide < room * width || high < room * 2 * height) return;
  const x = Math.max(0, Math.min(left, view.width - width));
  for (const y of [top - height, top, top + high - height, top + high]) {
    if (y < 0 || y + height > view.height || left + wide < 0 || left > view.width) continue;
    if (taken.some((t) => x < t.x + t.width && t.x < x + width && Math.abs(t.y - y) < height)) {
      continue;
    }
    taken.push({ x, y, width });
    pen.fillStyle = object.colour;
    pen.beginPath();
    pen.roundRect(x, y, width, height, 3 * unit);
    pen.fill();
    pen.fillStyle = ink(object.colour);
    pen.fillText(text, x + 4 * unit, y + height / 2 + unit / 2);
    return;
  }
}

// Text colour on a background #rrggbb.
function ink(colour) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  const lightness = Math.sqrt(0.2126 * red ** 2 + 0.7152 * green ** 2 + 0.0722 * blue ** 2);
  return lightness < WHITE_INK ? "#fff" : "#000";
}

// The pixels of the mask, or of the box of an object without one.
function areaOf(box, rle) {
  const [, , width, height] = edges(box);
  const runs = rle ? decodeCounts(rle.counts).filter((run, number) => number % 2) : [width * height];
  return `${Math.round(runs.reduce((sum, run) => sum + run, 0)).toLocaleString("en")} px²`;
}

function shortened(name) {
  const text = name.trim().replace(/\s+/g, " ");
  return text.length > 24 ? text.slice(0, 23) + "…" : text;
}

function edges([x1, y1, x2, y2]) {
  return [x1, y1, x2 - x1, y2 - y1];
}

function onCanvas(box, { scale, x, y }) {
  const [left, top, width, height] = edges(box);
  return [x + left * scale, y + top * scale, width * scale, height * scale];
}

// Draw in pixels of the image.
function placed(pen, { scale, x, y }, draw) {
  pen.save();
  pen.setTransform(scale, 0, 0, scale, x, y);
  draw();
  pen.restore();
}
