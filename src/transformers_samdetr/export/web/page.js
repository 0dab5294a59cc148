// Loads the model, detects on the picture or camera that is shown, and draws what it finds.
"use strict";

const DEFAULT_THRESHOLD = 0.3;  // of models that were saved without a threshold
const DUPLICATE_IOU = 0.7;  // of two boxes of a class with a higher IoU only the better one is kept
const COLORS = ["#56b4e9", "#e69f00", "#2fbf94", "#f0e442", "#e8743b", "#dd8fbd", "#5aa0e6"];
const find = selector => document.querySelector(selector);

let session, about;  // the model, and what model.onnx.json says of it
let shown = null;  // an ImageBitmap or the camera's video
let detections = [];  // of what is shown: {label, score, box: [x1, y1, x2, y2] in pixels}, best first
let camera = null;  // its stream, while it is on
let isBusy = false;
const ready = loadModel();

async function loadModel() {
  if (location.protocol === "file:") {
    throw new Error("Browsers load no model from a file: run python -m http.server in this folder, and open http://localhost:8000.");
  }
  if (typeof WebAssembly !== "object") throw new Error("This browser has no WebAssembly, which the model needs: try another.");
  if (typeof ort !== "object") throw new Error("onnxruntime-web could not be loaded.");
  ort.env.wasm.numThreads = crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, 4) : 1;
  ort.env.wasm.proxy = true;  // a worker runs the model, so that the page answers meanwhile
  const answer = await fetch("model.onnx.json");
  if (!answer.ok) throw new Error("model.onnx.json is missing beside this page.");
  about = await answer.json();
  const names = Object.values(about.id2label), more = names.length - 12;
  find("#classes").textContent = `Finds: ${names.slice(0, 12).join(", ")}${more > 0 ? ` and ${more} more` : ""}`;
  find("#threshold").value = about.detection_threshold ?? DEFAULT_THRESHOLD;
  showThreshold();
  session = await ort.InferenceSession.create("model.onnx");
  if (!shown) say("");
}

function say(text, isBad = false) {
  find("#message").textContent = text;
  find("#message").classList.toggle("bad", isBad);
}

function showError(error) {
  say(error.message, true);
}

function sizeOf(source) {
  return [source.videoWidth ?? source.width, source.videoHeight ?? source.height];
}

/** Detections on a picture or a frame of the camera. */
async function detect(source) {
  const [width, height] = sizeOf(source);
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";  // behind what is transparent
  context.fillRect(0, 0, width, height);
  context.drawImage(source, 0, 0);
  const input = toInput(context.getImageData(0, 0, width, height), about.image_processor);
  const { scores, labels, boxes } = await session.run({
    pixel_values: new ort.Tensor("float32", input.pixels, [1, 3, input.height, input.width]),
    pixel_mask: new ort.Tensor("int64", input.mask, [1, input.height, input.width]),
    target_sizes: new ort.Tensor("int64", [BigInt(height), BigInt(width)], [1, 2]),
  });
  return withoutDuplicates(Array.from(scores.data, (score, index) => (
    { label: Number(labels.data[index]), score, box: Array.from(boxes.data.slice(4 * index, 4 * index + 4)) }
  )));
}

function withoutDuplicates(sorted) {
  const kept = [];
  for (const one of sorted) {
    if (!kept.some(better => better.label === one.label && iou(better.box, one.box) > DUPLICATE_IOU)) kept.push(one);
  }
  return kept;
}

function iou(a, b) {
  const area = box => (box[2] - box[0]) * (box[3] - box[1]);
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]), height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  const shared = Math.max(width, 0) * Math.max(height, 0);
  return shared / (area(a) + area(b) - shared);
}

/** Detects on what is shown: once on a picture, on frame after frame of the camera. */
async function update() {
  if (isBusy) return;
  isBusy = true;
  let done = null;
  while (shown && shown !== done) {
    const source = shown, start = performance.now();
    try {
      const found = await detect(source);
      if (shown === source) {
        detections = found;
        showDetections(Math.round(performance.now() - start));
      }
    } catch (error) {
      stopCamera();
      say(`The model cannot run on this picture: ${error.message}`, true);
    }
    done = camera ? null : source;
  }
  isBusy = false;
}

function threshold() {
  return Number(find("#threshold").value);
}

function showThreshold() {
  find("output").textContent = threshold().toFixed(2);
}

let milliseconds = 0;

function showDetections(time = milliseconds) {
  milliseconds = time;
  const good = detections.filter(one => one.score > threshold());
  const rate = camera ? `, ${(1000 / time).toFixed(1)} pictures a second` : "";
  say(`${good.length || "No"} ${good.length === 1 ? "object" : "objects"} · ${time} ms a picture${rate}`);
  find("tbody").replaceChildren(...good.map(one => {
    const row = document.createElement("tr"), swatch = document.createElement("i");
    swatch.style.background = COLORS[one.label % COLORS.length];
    const box = one.box.map(side => side.toFixed(0)).join(", ");
    for (const text of [about.id2label[one.label], one.score.toFixed(2), box]) row.insertCell().textContent = text;
    row.cells[0].prepend(swatch);
    return row;
  }));
  find("table").hidden = !good.length;
  draw();
}

/** Draws what is shown, as large as there is room, with boxes, names and scores. */
function draw() {
  const canvas = find("canvas"), stage = find("#stage");
  canvas.hidden = !shown;
  find("#stage p").hidden = Boolean(shown);
  stage.classList.toggle("empty", !shown);
  if (!shown) return;
  const [width, height] = sizeOf(shown), sharpness = window.devicePixelRatio;
  const scale = Math.min(stage.clientWidth / width, (0.7 * window.innerHeight) / height);
  canvas.width = Math.round(width * scale * sharpness);
  canvas.height = Math.round(height * scale * sharpness);
  canvas.style.width = `${width * scale}px`;
  const context = canvas.getContext("2d");
  context.scale(sharpness, sharpness);
  context.drawImage(shown, 0, 0, width * scale, height * scale);
  context.font = "600 12px system-ui, sans-serif";
  context.textBaseline = "middle";
  const good = detections.filter(one => one.score > threshold()).reverse();  // the best on top
  for (const { label, box } of good) {
    const [left, top, right, bottom] = box.map(side => side * scale);
    for (const [color, thickness] of [["#0009", 4], [COLORS[label % COLORS.length], 2]]) {  // dark beside the line
      context.strokeStyle = color;
      context.lineWidth = thickness;
      context.strokeRect(left, top, right - left, bottom - top);
    }
  }
  for (const { label, score, box } of good) {
    const [left, top] = box.map(side => side * scale);
    const text = `${about.id2label[label]} ${score.toFixed(2)}`, plate = context.measureText(text).width + 8;
    const x = Math.max(Math.min(left - 1, width * scale - plate), 0), y = Math.max(top - 17, 0);
    context.fillStyle = COLORS[label % COLORS.length];
    context.fillRect(x, y, plate, 17);
    context.fillStyle = "#000";
    context.fillText(text, x + 4, y + 9);
  }
}

function show(source) {
  shown = source;
  detections = [];
  find("table").hidden = true;
  draw();
  ready.then(update, showError);
}

async function showFile(file) {
  let picture;
  try {
    picture = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    return say(`${file.name} is not a picture that this browser can open.`, true);
  }
  stopCamera();
  say("Detecting …");
  show(picture);
}

const CAMERA_ERRORS = {
  NotAllowedError: "The camera was refused: allow it in the browser's settings of this page, and try again.",
  NotFoundError: "This device has no camera.",
  NotReadableError: "The camera is in use by another program.",
};

async function startCamera() {
  if (!navigator.mediaDevices) return say("Browsers give a camera to pages of https or localhost alone.", true);
  const video = Object.assign(document.createElement("video"), { muted: true, playsInline: true });
  try {
    camera = video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    await video.play();
  } catch (error) {
    stopCamera();
    return say(CAMERA_ERRORS[error.name] ?? `The camera does not start: ${error.message}`, true);
  }
  find("#camera").textContent = "Stop the camera";
  show(video);
  const drawNext = () => {
    if (shown !== video) return;
    draw();
    requestAnimationFrame(drawNext);
  };
  drawNext();
}

function stopCamera() {
  camera?.getTracks().forEach(track => track.stop());
  if (camera) shown = null;
  camera = null;
  find("#camera").textContent = "Camera";
  find("table").hidden = true;
  say("");
  draw();
}

ready.catch(showError);
find("#file").onchange = event => {
  if (event.target.files[0]) showFile(event.target.files[0]);
  event.target.value = "";  // so that the same picture can be chosen again
};
find("#camera").onclick = () => (camera ? stopCamera() : startCamera());
find("#threshold").oninput = () => {
  showThreshold();
  if (shown && detections.length) showDetections();
};
window.onresize = draw;
document.onpaste = event => event.clipboardData.files[0] && showFile(event.clipboardData.files[0]);
document.ondragover = event => {
  event.preventDefault();
  document.body.classList.add("dragging");
};
document.ondragleave = event => event.relatedTarget || document.body.classList.remove("dragging");
document.ondrop = event => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  if (event.dataTransfer.files[0]) showFile(event.dataTransfer.files[0]);
};
