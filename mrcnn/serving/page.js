"use strict";

// Add images, send them to the model one after the other, and show the results.

const NO_ANSWER = "The server does not respond. Is mrcnn serve still running?";
let working = false;

function addFiles(files) {
  const added = [...files].map((file) => ({
    file, name: file.name, state: "waiting", zoom: 1, centre: [0, 0], thumbnail: make("canvas"),
  }));
  if (!added.length) return;
  state.images.push(...added);
  for (const image of added) element("strip").append(button(image));
  show(added[0]);
  work();
}

async function work() {
  if (working || !state.model) return;
  working = true;
  for (let next; (next = state.images.find(({ state }) => state === "waiting")); ) {
    await process(next);
  }
  working = false;
  updateStatus();
}

async function process(image) {
  image.state = "running";
  updateStatus();
  try {
    const most = state.model.max_bytes;
    if (image.file.size > most) {
      throw new Error(
        `The file has ${megabytes(image.file.size)}, the limit is ${megabytes(most)}. ` +
        "Start the server with a larger --max-mb, or scale the image down.");
    }
    await image.file.slice(0, 1).arrayBuffer().catch(() => {
      throw new Error("The file cannot be read. Is it a folder, or was it moved?");
    });
    const bitmap = await createImageBitmap(image.file).catch(() => null);
    if (bitmap) place(image, bitmap);
    let answer = await ask(image.file, bitmap === null);
    const turned = image.width !== answer.width || image.height !== answer.height;
    if (bitmap && turned) answer = await ask(image.file, true);  // the browser ignored its orientation
    if (answer.image) {
      image.shown = new Blob([Uint8Array.from(atob(answer.image), (c) => c.charCodeAt(0))]);
      place(image, await createImageBitmap(image.shown));
    }
    image.objects = answer.scores.map((score, i) => ({
      score, rank: i + 1, box: answer.boxes[i], label: answer.labels[i], name: answer.names[i],
      colour: answer.colours[i], rle: answer.masks[i],
      area: areaOf(answer.boxes[i], answer.masks[i]),
      path: answer.masks[i] && maskPath(answer.masks[i]),
    }));
    image.seconds = answer.seconds;
    image.state = "done";
  } catch (error) {
    image.state = "failed";
    image.message = error.message;
  }
  if (image === state.current) show(image);
  updateStatus();
}

async function ask(file, withImage) {
  for (;;) {
    let response;
    try {
      response = await fetch(address("/predict", withImage ? "image" : ""), {
        method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" },
      });
    } catch {
      throw new Error(NO_ANSWER);
    }
    const answer = await response.json();
    if (response.ok) return answer;
    if (response.status !== 503) throw new Error(sentence(answer.error));
    await new Promise((done) => setTimeout(done, 1000));  // other pages keep it busy
  }
}

// An address of the server, with the token that the address of the page may have.
function address(path, word = "") {
  const query = [word, location.search.slice(1)].filter(Boolean).join("&");
  return query ? `${path}?${query}` : path;
}

// An error of the server as a sentence: "image: is empty" becomes "The file is empty."
function sentence(text) {
  const message = text.replace(/^image: /, "The file ");
  return message[0].toUpperCase() + message.slice(1) + ".";
}

// Show the pixels while the model still runs.
function place(image, bitmap) {
  [image.width, image.height] = [bitmap.width, bitmap.height];
  image.centre = [bitmap.width / 2, bitmap.height / 2];
  const { thumbnail } = image, height = 112, width = 172;
  const scale = Math.max(width / bitmap.width, height / bitmap.height);
  Object.assign(thumbnail, { width, height });
  const pen = thumbnail.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(
    bitmap, (width - bitmap.width * scale) / 2, (height - bitmap.height * scale) / 2,
    bitmap.width * scale, bitmap.height * scale);
  keep(image, bitmap);
}

// Only the image on the stage keeps its pixels.
function keep(image, bitmap) {
  if (image !== state.current) return bitmap.close();
  if (image.bitmap !== bitmap) image.bitmap?.close();
  image.bitmap = bitmap;
  stage.style.setProperty("--ratio", `${bitmap.width} / ${bitmap.height}`);
  stage.classList.add("filled");
  element("zoom").hidden = false;
  redraw(...LAYERS);
}

function show(image) {
  const before = state.current;
  state.current = image;
  state.lit = state.chosen = null;
  if (before !== image) {
    before?.bitmap?.close();
    if (before) before.bitmap = null;
    stage.classList.remove("filled");
    stage.classList.toggle("close", image?.zoom > 1);
    element("zoom").hidden = true;
    if (image?.width) {
      createImageBitmap(image.shown ?? image.file).then(
        (bitmap) => {
          keep(image, bitmap);
          updateCounts();
        },
        () => {
          image.state = "failed";
          image.message = "The file can no longer be read. Was it moved?";
          updateStatus();
        });
    }
  }
  element("empty").hidden = Boolean(image);
  element("example").hidden = Boolean(image) || !state.model?.example;
  element("remove").hidden = !image;
  fillPanel();
  updateStatus();
  redraw(...LAYERS);
}

function remove(image) {
  const index = state.images.indexOf(image);
  state.images.splice(index, 1);
  image.button.remove();
  show(state.images[Math.min(index, state.images.length - 1)] ?? null);
}

// Its button in the strip of all images.
function button(image) {
  const { name, thumbnail } = image;
  const made = make(
    "button", { title: name }, thumbnail, make("span", { textContent: name }), make("i"));
  made.addEventListener("click", () => show(image));
  image.button = made;
  return made;
}

function updateStatus() {
  const { images, current } = state;
  const running = images.find((image) => image.state === "running");
  const waiting = images.filter((image) => image.state === "waiting").length;
  let text = state.model ? "" : NO_ANSWER;
  if (running) text = `Processing ${running.name}${waiting ? `, ${waiting} more waiting` : ""}`;
  else if (current?.state === "done") {
    const { name, width, height, seconds } = current;
    text = `${name} · ${width} × ${height} pixels · ${seconds.toFixed(2)}\u00a0s`;
  }
  element("status").textContent = text;
  element("status").classList.toggle("busy", Boolean(running));

  const problem = element("problem");
  problem.hidden = current?.state !== "failed";
  if (!problem.hidden) {
    problem.querySelector("b").textContent = current.name;
    problem.querySelector("p").textContent = current.message;
  }
  element("strip").hidden = images.length < 2;
  for (const image of images) {
    const marks = { waiting: "…", running: "…", failed: "!", done: "" };
    image.button.className = image.state;
    image.button.querySelector("i").textContent = marks[image.state];
    image.button.querySelector("i").hidden = image.state === "done";
    if (image === current) image.button.setAttribute("aria-current", "true");
    else image.button.removeAttribute("aria-current");
  }
}

const megabytes = (bytes) => `${Math.round(bytes / 1e5) / 10} MB`;

async function start() {
  try {
    const response = await fetch(address("/model"));
    if (!response.ok) throw new Error();
    state.model = await response.json();
  } catch {
    element("status").textContent = NO_ANSWER;
    setTimeout(start, 2000);
    return;
  }
  const { name, class_names, max_bytes } = state.model;
  const classes = class_names.length === 1 ? class_names[0] : `${class_names.length} classes`;
  updateStatus();
  element("model").textContent = `${name} · ${classes}`;
  document.title = `${name} · mrcnn`;
  element("model").title = class_names.join(", ");
  element("limits").textContent = `JPEG, PNG, TIFF, WebP, BMP, GIF; up to ${megabytes(max_bytes)}`;
  element("example").hidden = Boolean(state.current) || !state.model.example;
  work();
}

for (const id of ["add", "empty"]) {
  element(id).addEventListener("click", () => element("files").click());
}
element("remove").addEventListener("click", () => remove(state.current));
element("example").addEventListener("click", async () => {
  const response = await fetch(address("/example")).catch(() => null);
  if (response?.ok) addFiles([new File([await response.blob()], state.model.example)]);
});
element("files").addEventListener("change", (event) => {
  addFiles(event.target.files);
  event.target.value = "";  // so that the same file can be chosen again
});
element("problem").querySelector("button").addEventListener("click", () => {
  state.current.state = "waiting";
  work();
  updateStatus();
});
document.addEventListener("paste", (event) => take(event.clipboardData));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  element("drop").hidden = false;
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) element("drop").hidden = true;
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  element("drop").hidden = true;
  take(event.dataTransfer);
});

function take(transfer) {
  if (transfer.files.length) return addFiles(transfer.files);
  element("status").textContent =
    "No image file found. Images on other web pages are not fetched; save them first.";
}

start();
