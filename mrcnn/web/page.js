"use strict";

// Pictures come in, go to the model one after the other, and are shown.

const NO_ANSWER = "The server does not answer; is mrcnn serve still running?";
let working = false;

function addFiles(files) {
  const added = [...files].map((file) => ({
    file, name: file.name, state: "waiting", zoom: 1, centre: [0, 0], thumbnail: make("canvas"),
  }));
  if (!added.length) return;
  state.pictures.push(...added);
  for (const picture of added) element("strip").append(button(picture));
  show(added[0]);
  work();
}

async function work() {
  if (working || !state.model) return;
  working = true;
  for (let next; (next = state.pictures.find(({ state }) => state === "waiting")); ) {
    await look(next);
  }
  working = false;
  updateStatus();
}

async function look(picture) {
  picture.state = "looking";
  updateStatus();
  try {
    const most = state.model.max_bytes;
    if (picture.file.size > most) {
      throw new Error(
        `It has ${megabytes(picture.file.size)}; at most ${megabytes(most)} are taken. ` +
        "Start the server with a larger --max-mb, or scale the picture down.");
    }
    await picture.file.slice(0, 1).arrayBuffer().catch(() => {
      throw new Error("It cannot be read; is it a folder, or was it moved?");
    });
    const bitmap = await createImageBitmap(picture.file).catch(() => null);
    if (bitmap) place(picture, bitmap);
    let answer = await ask(picture.file, bitmap === null);
    const turned = picture.width !== answer.width || picture.height !== answer.height;
    if (bitmap && turned) answer = await ask(picture.file, true);  // the browser did not turn it
    if (answer.picture) {
      picture.shown = new Blob([Uint8Array.from(atob(answer.picture), (c) => c.charCodeAt(0))]);
      place(picture, await createImageBitmap(picture.shown));
    }
    picture.objects = answer.scores.map((score, i) => ({
      score, rank: i + 1, box: answer.boxes[i], label: answer.labels[i], name: answer.names[i],
      colour: answer.colours[i], rle: answer.masks[i],
      path: answer.masks[i] && maskPath(answer.masks[i]),
    }));
    picture.seconds = answer.seconds;
    picture.state = "done";
  } catch (error) {
    picture.state = "failed";
    picture.message = error.message;
  }
  if (picture === state.current) show(picture);
  updateStatus();
}

async function ask(file, withPicture) {
  for (;;) {
    let response;
    try {
      response = await fetch(withPicture ? "/predict?picture" : "/predict", {
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

// What the server says of "picture: ...".
function sentence(text) {
  const said = text.replace(/^picture: /, "It ");
  return said[0].toUpperCase() + said.slice(1) + ".";
}

// The pixels are there, the objects not yet.
function place(picture, bitmap) {
  [picture.width, picture.height] = [bitmap.width, bitmap.height];
  picture.centre = [bitmap.width / 2, bitmap.height / 2];
  const { thumbnail } = picture, height = 112, width = 172;
  const scale = Math.max(width / bitmap.width, height / bitmap.height);
  Object.assign(thumbnail, { width, height });
  const pen = thumbnail.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(
    bitmap, (width - bitmap.width * scale) / 2, (height - bitmap.height * scale) / 2,
    bitmap.width * scale, bitmap.height * scale);
  keep(picture, bitmap);
}

// Only the picture on the stage keeps its pixels.
function keep(picture, bitmap) {
  if (picture !== state.current) return bitmap.close();
  if (picture.bitmap !== bitmap) picture.bitmap?.close();
  picture.bitmap = bitmap;
  stage.style.setProperty("--ratio", `${bitmap.width} / ${bitmap.height}`);
  stage.classList.add("filled");
  element("zoom").hidden = false;
  redraw(...LAYERS);
}

function show(picture) {
  const before = state.current;
  state.current = picture;
  state.lit = state.chosen = null;
  if (before !== picture) {
    before?.bitmap?.close();
    if (before) before.bitmap = null;
    stage.classList.remove("filled");
    stage.classList.toggle("close", picture.zoom > 1);
    element("zoom").hidden = true;
    if (picture.width) {
      createImageBitmap(picture.shown ?? picture.file).then(
        (bitmap) => {
          keep(picture, bitmap);
          updateCounts();
        },
        () => {
          picture.state = "failed";
          picture.message = "It can no longer be read; was it moved?";
          updateStatus();
        });
    }
  }
  element("empty").hidden = true;
  fillPanel();
  updateStatus();
  redraw(...LAYERS);
}

// Its place in the row of all pictures.
function button(picture) {
  const { name, thumbnail } = picture;
  const made = make(
    "button", { title: name }, thumbnail, make("span", { textContent: name }), make("i"));
  made.addEventListener("click", () => show(picture));
  picture.button = made;
  return made;
}

function updateStatus() {
  const { pictures, current } = state;
  const looking = pictures.find((picture) => picture.state === "looking");
  const waiting = pictures.filter((picture) => picture.state === "waiting").length;
  let text = state.model ? "" : NO_ANSWER;
  if (looking) text = `Looking at ${looking.name}${waiting ? `; ${waiting} more to come` : ""}`;
  else if (current?.state === "done") {
    const { name, width, height, seconds } = current;
    text = `${name} · ${width} × ${height} pixels · ${seconds.toFixed(2)} s`;
  }
  element("status").textContent = text;
  element("status").classList.toggle("busy", Boolean(looking));

  const problem = element("problem");
  problem.hidden = current?.state !== "failed";
  if (!problem.hidden) {
    problem.querySelector("b").textContent = current.name;
    problem.querySelector("p").textContent = current.message;
  }
  element("strip").hidden = pictures.length < 2;
  for (const picture of pictures) {
    const marks = { waiting: "…", looking: "…", failed: "!", done: "" };
    picture.button.className = picture.state;
    picture.button.querySelector("i").textContent = marks[picture.state];
    picture.button.querySelector("i").hidden = picture.state === "done";
    if (picture === current) picture.button.setAttribute("aria-current", "true");
    else picture.button.removeAttribute("aria-current");
  }
}

const megabytes = (bytes) => `${Math.round(bytes / 1e5) / 10} MB`;

async function start() {
  try {
    const response = await fetch("/model");
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
  work();
}

for (const id of ["add", "empty"]) {
  element(id).addEventListener("click", () => element("files").click());
}
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
    "That holds no picture file. Pictures of other pages are not fetched; save them first.";
}

start();
