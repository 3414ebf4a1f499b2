// The example: the bundle tests itself; then an image is drawn, chosen or taken from the golden ones, and classified.
import { Student, argmax } from "./student.js";

const $ = (id) => document.getElementById(id);
const milliseconds = (seconds) => `${(1000 * seconds).toPrecision(3)} ms`;

// What the student takes that is no image, in words; empty where it takes one.
function otherThanImage(student) {
  if (student.preprocessing.tokenizer) return "text";
  if (student.preprocessing.framing) return "sound";
  return imageOf(student) ? "" : "no image";
}

// How the student's input is an image: {channels, height, width, at(c, y, x), make}; null if it is none.
function imageOf(student) {
  const [port, ...more] = student.signature.inputs;
  const layout = student.preprocessing.layout ?? "NCHW";
  const make = { float32: Float32Array, uint8: Uint8Array }[port.dtype];
  if (more.length || !make || port.shape.length !== 4) return null;
  const [channels, height, width] = layout === "NHWC" ? [port.shape[3], port.shape[1], port.shape[2]] : port.shape.slice(1);
  if (![1, 3].includes(channels) || typeof height !== "number" || typeof width !== "number") return null;
  const at = layout === "NHWC" ? (c, y, x) => (y * width + x) * channels + c : (c, y, x) => (c * height + y) * width + x;
  return { channels, height, width, at, make };
}

// The constants of one channel: (pixel · scale − mean) / std.
function constants(student, channel) {
  const of = (key, otherwise) => {
    const found = student.preprocessing[key] ?? otherwise;
    return Array.isArray(found) ? found[Math.min(channel, found.length - 1)] : found;
  };
  return { scale: of("scale", 1), mean: of("mean", 0), std: of("std", 1) };
}

// RGBA pixels of the image's size, as the student's input. Grey is ITU-R BT.601's luma, rounded.
function fromPixels(student, image, pixels) {
  const values = new image.make(image.channels * image.height * image.width);
  for (let c = 0; c < image.channels; c++) {
    const { scale, mean, std } = constants(student, c);
    for (let y = 0; y < image.height; y++) {
      for (let x = 0; x < image.width; x++) {
        const p = 4 * (y * image.width + x);
        const grey = Math.round((299 * pixels[p] + 587 * pixels[p + 1] + 114 * pixels[p + 2]) / 1000);
        const value = ((image.channels === 1 ? grey : pixels[p + c]) * scale - mean) / std;
        values[image.at(c, y, x)] = image.make === Uint8Array ? Math.min(Math.max(Math.round(value), 0), 255) : value;
      }
    }
  }
  return values;
}

// And back, for showing golden inputs.
function toPixels(student, image, values) {
  const shown = new ImageData(image.width, image.height);
  for (let y = 0; y < image.height; y++) {
    for (let x = 0; x < image.width; x++) {
      const p = 4 * (y * image.width + x);
      for (let c = 0; c < 3; c++) {
        const from = Math.min(c, image.channels - 1);
        const { scale, mean, std } = constants(student, from);
        shown.data[p + c] = Math.round((values[image.at(from, y, x)] * std + mean) / scale);
      }
      shown.data[p + 3] = 255;
    }
  }
  return shown;
}

// The mean of each cell of a canvas, rounded: RGBA pixels of the image's size.
function averaged(paper, image, cell) {
  const [width, height] = [cell * image.width, cell * image.height];
  const { data } = paper.getImageData(0, 0, width, height);
  const sums = new Float64Array(4 * image.width * image.height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const to = 4 * (Math.floor(y / cell) * image.width + Math.floor(x / cell));
      for (let c = 0; c < 4; c++) sums[to + c] += data[4 * (y * width + x) + c];
    }
  }
  return sums.map((sum) => Math.round(sum / (cell * cell)));
}

function softmax(values) {
  const most = Math.max(...values);
  const powers = Array.from(values, (value) => Math.exp(value - most));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

// Run the student and say what it sees; the label and the seconds.
async function classify(student, values) {
  const started = performance.now();
  const [logits] = await student.run([values]);
  const seconds = (performance.now() - started) / 1000;
  const shares = softmax(logits);
  const name = (index) => student.labels[index] ?? `class ${index}`;
  const best = Array.from(shares.keys()).sort((a, b) => shares[b] - shares[a]).slice(0, 5);
  $("answer").textContent = name(argmax(logits));
  // A browser's clock ticks each 0.1 ms on a page that is not isolated from others: a short call may lie within one tick.
  $("time").textContent = seconds > 0 ? `in ${milliseconds(seconds)}` : "in less than 0.1 ms";
  $("shares").replaceChildren(
    ...best.map((index) => {
      const row = document.createElement("li");
      const bar = document.createElement("meter");
      bar.value = shares[index];
      row.append(bar, ` ${name(index)}  ${(100 * shares[index]).toFixed(1)}%`);
      return row;
    }),
  );
  return { label: name(argmax(logits)), seconds };
}

// A canvas to draw on, an image to choose, golden images to click on.
async function example(student, image) {
  const canvas = $("canvas");
  const paper = canvas.getContext("2d", { willReadFrequently: true });
  const cell = Math.ceil(280 / image.width); // of the canvas, a pixel of the student's image
  [canvas.width, canvas.height] = [cell * image.width, cell * image.height];

  const look = () => classify(student, fromPixels(student, image, averaged(paper, image, cell)));
  const clear = () => {
    paper.fillStyle = "black";
    paper.fillRect(0, 0, canvas.width, canvas.height);
  };
  const show = (source, width, height) => {
    // the middle of the source, as large as fits
    const scale = Math.min(width / image.width, height / image.height);
    const [w, h] = [image.width * scale, image.height * scale];
    Object.assign(paper, { imageSmoothingEnabled: width > image.width, imageSmoothingQuality: "high" });
    paper.drawImage(source, (width - w) / 2, (height - h) / 2, w, h, 0, 0, canvas.width, canvas.height);
  };
  clear();

  let last = null;
  const place = (event) => [
    (event.offsetX * canvas.width) / canvas.clientWidth,
    (event.offsetY * canvas.height) / canvas.clientHeight,
  ];
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    last = place(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!last) return;
    const next = place(event);
    Object.assign(paper, { strokeStyle: "white", lineWidth: canvas.width / 10, lineCap: "round" });
    paper.beginPath();
    paper.moveTo(...last);
    paper.lineTo(...next);
    paper.stroke();
    last = next;
  });
  canvas.addEventListener("pointerup", () => {
    last = null;
    look();
  });
  $("clear").addEventListener("click", clear);
  $("file").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    if (!file) return;
    const picture = await createImageBitmap(file);
    show(picture, picture.width, picture.height);
    look();
  });

  const golden = await student.golden();
  golden.inputs.forEach(([values], index) => {
    const button = document.createElement("button");
    const picture = document.createElement("canvas");
    [picture.width, picture.height] = [image.width, image.height];
    picture.getContext("2d").putImageData(toPixels(student, image, values), 0, 0);
    button.append(picture);
    button.title = `golden image ${index}`;
    button.addEventListener("click", () => {
      show(picture, image.width, image.height);
      button.answer = classify(student, values);
    });
    $("golden").append(button);
  });
  $("example").hidden = false;
}

function told(found) {
  const promised = found.promised ? `; ${milliseconds(found.promised)} was measured on the bundle's target` : "";
  return (
    `${found.samples} golden samples: top-1 agreement ${found.top1}, largest difference ${Number(found.difference.toPrecision(3))} ` +
    `of at most ${found.tolerance.absolute}. Median ${milliseconds(found.median)} a call here (${found.calls} calls)${promised}.`
  );
}

async function main() {
  const said = $("self-test");
  try {
    const student = await Student.open("bundle");
    $("runtime").textContent = `ONNX Runtime Web ${student.runtime}`;
    const found = await student.selfTest();
    said.textContent = `${found.ok ? "Self-test passed." : "Self-test failed."} ${told(found)}`;
    said.dataset.state = found.ok ? "ok" : "failed";
    said.dataset.result = JSON.stringify(found);
    const other = otherThanImage(student);
    if (!other) await example(student, imageOf(student));
    $("note").textContent = other && `This student takes ${other}. This page prepares images only: it tests the bundle, and shows its latency.`;
  } catch (error) {
    said.textContent = String(error);
    said.dataset.state = "error";
  }
  document.documentElement.dataset.ready = "yes";
}

await main();
