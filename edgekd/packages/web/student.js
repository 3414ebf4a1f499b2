// student.js: a bundle in a browser, by ONNX Runtime Web. It reads, checks and tests a bundle as cmake/src does in C++.
//
//     import { Student } from "./student.js";
//     const student = await Student.open("bundle");
//     const [logits] = await student.run([image]);   // typed arrays, in the order of the signature
//
// Nothing but the files beside this one is fetched. Files of the bundle are checked against their digests before use.
import * as ort from "./onnxruntime/ort.wasm.min.mjs";

ort.env.wasm.wasmPaths = new URL("./onnxruntime/", import.meta.url).href;
ort.env.wasm.numThreads = 1; // more would need a server that isolates the page (COOP and COEP)
ort.env.logLevel = "error";

const FORMAT = 1;
const WARM_CALLS = 10; // before the first that is timed
const MOST_SECONDS = 1; // for all timed calls together
const FEWEST_BLOCKS = 5;
const MOST_BLOCKS = 40;
const BLOCK_SECONDS = 0.005; // a browser's clock ticks up to 0.1 ms: calls are timed in blocks of so long

const TYPES = {
  float32: ["<f4", Float32Array],
  float64: ["<f8", Float64Array],
  int8: ["|i1", Int8Array],
  uint8: ["|u1", Uint8Array],
  int16: ["<i2", Int16Array],
  uint16: ["<u2", Uint16Array],
  int32: ["<i4", Int32Array],
  uint32: ["<u4", Uint32Array],
  int64: ["<i8", BigInt64Array],
  uint64: ["<u8", BigUint64Array],
  bool: ["|b1", Uint8Array],
};

const product = (sizes) => sizes.reduce((a, b) => a * b, 1);
const utf8 = new TextDecoder("utf-8", { fatal: true });

function damaged(what) {
  return new Error(`${what}; copy or compile the bundle again`);
}

// The arrays of an .npz file as numpy.savez writes it: name -> {dtype, shape, data}. A zip of stored .npy files.
// Formats: the zip appnote 6.3.10, sections 4.3.7, 4.3.12 and 4.3.16; numpy's NEP 1.
export function readNpz(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const end = bytes.length - 22; // the record at the end, without a comment
  if (end < 0 || view.getUint32(end, true) !== 0x06054b50) throw damaged("golden.npz is no zip file");
  const arrays = new Map();
  let at = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left > 0; left--) {
    if (view.getUint32(at, true) !== 0x02014b50) throw damaged("golden.npz: its directory is damaged");
    if (view.getUint16(at + 10, true) !== 0) throw damaged("golden.npz is compressed");
    const size = view.getUint32(at + 20, true);
    const name = utf8.decode(bytes.subarray(at + 46, at + 46 + view.getUint16(at + 28, true)));
    const local = view.getUint32(at + 42, true);
    const from = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    arrays.set(name.replace(/\.npy$/, ""), readNpy(bytes.subarray(from, from + size)));
    at += 46 + view.getUint16(at + 28, true) + view.getUint16(at + 30, true) + view.getUint16(at + 32, true);
  }
  return arrays;
}

function readNpy(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const start = bytes[6] === 1 ? 10 : 12;
  const from = start + (bytes[6] === 1 ? view.getUint16(8, true) : view.getUint32(8, true));
  const header = utf8.decode(bytes.subarray(start, from));
  const found = /'descr': '([^']+)', 'fortran_order': False, 'shape': \(([\d, ]*)\)/.exec(header);
  const entry = found && Object.entries(TYPES).find(([, [descr]]) => descr === found[1]);
  if (!entry) throw damaged(`golden.npz: an array that cannot be read here: ${header.trim()}`);
  const [dtype, [, Type]] = entry;
  const shape = (found[2].match(/\d+/g) ?? []).map(Number);
  const data = new Type(bytes.slice(from).buffer); // a copy is aligned
  if (data.length !== product(shape)) throw damaged("golden.npz: an array is not as large as its shape");
  return { dtype, shape, data };
}

async function fetched(root, path) {
  const answer = await fetch(new URL(path, root));
  if (!answer.ok) throw damaged(`${path} cannot be read: ${answer.status} ${answer.statusText}`);
  return new Uint8Array(await answer.arrayBuffer());
}

// The file, if its SHA-256 is the one that bundle.json has.
async function checked(root, path, files) {
  if (!globalThis.crypto?.subtle) throw new Error("this page must come over https, or from localhost, to check digests");
  const bytes = await fetched(root, path);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (found !== files[path]) throw damaged(`${path} was changed`);
  return bytes;
}

// One port's sizes for so many elements: one dynamic size is told by the count.
function sizesFor(port, count) {
  const dynamic = port.shape.filter((size) => typeof size !== "number").length;
  const known = product(port.shape.filter((size) => typeof size === "number"));
  const rest = count / known;
  if (dynamic > 1 || !Number.isInteger(rest) || rest < 1 || (dynamic === 0 && rest !== 1)) {
    throw new Error(`"${port.name}" has ${count} elements; the student's is [${port.shape.join(", ")}]`);
  }
  return port.shape.map((size) => (typeof size === "number" ? size : rest));
}

export class Student {
  // Open the bundle in a folder, named relative to this file. Throws an Error that says what is wrong and how to mend it.
  static async open(folder) {
    const root = new URL(folder.replace(/\/*$/, "/"), import.meta.url);
    const manifest = JSON.parse(utf8.decode(await fetched(root, "bundle.json")));
    if (manifest.format !== FORMAT) {
      throw new Error(`bundle format ${manifest.format}, written by edgekd ${manifest.edgekd}; this page reads ${FORMAT}`);
    }
    const engine = JSON.parse(utf8.decode(await checked(root, "engine/engine.json", manifest.files)));
    if (engine.backend !== "onnxruntime") throw new Error(`the bundle's engine is for ${engine.backend}, not onnxruntime`);
    for (const port of [...manifest.signature.inputs, ...manifest.signature.outputs]) {
      if (!TYPES[port.dtype]) throw new Error(`"${port.name}" is ${port.dtype}, which this page cannot hold`);
    }
    const model = await checked(root, `engine/${engine.file}`, manifest.files);
    const session = await ort.InferenceSession.create(model, {
      executionProviders: ["wasm"],
      enableCpuMemArena: engine.options.enable_cpu_mem_arena,
      enableMemPattern: engine.options.enable_mem_pattern,
    });
    return new Student(root, manifest, engine, session);
  }

  constructor(root, manifest, engine, session) {
    this.root = root;
    this.manifest = manifest; // bundle.json
    this.engine = engine; // engine.json
    this.session = session;
    this.signature = manifest.signature;
    this.labels = manifest.signature.labels ?? [];
    this.preprocessing = manifest.signature.preprocessing ?? {};
    this.runtime = ort.env.versions.web;
    this.turn = Promise.resolve();
  }

  // Compute the outputs for the inputs: typed arrays of the ports' types, in their order. Calls take turns.
  run(inputs) {
    const answer = this.turn.then(() => this.#compute(inputs));
    this.turn = answer.catch(() => {});
    return answer;
  }

  async #compute(inputs) {
    const ports = this.signature.inputs;
    if (inputs.length !== ports.length) throw new Error(`the student takes ${ports.length} input(s), got ${inputs.length}`);
    const feed = {};
    ports.forEach((port, index) => {
      const [, Type] = TYPES[port.dtype];
      if (!(inputs[index] instanceof Type)) throw new Error(`"${port.name}" must be a ${Type.name}`);
      feed[port.name] = new ort.Tensor(port.dtype, inputs[index], sizesFor(port, inputs[index].length));
    });
    const found = await this.session.run(feed);
    return this.signature.outputs.map((port) => found[port.name].data);
  }

  // The golden inputs and outputs, one list of typed arrays a sample: {samples, inputs: [[…]], outputs: [[…]]}.
  async golden() {
    const arrays = readNpz(await checked(this.root, "golden.npz", this.manifest.files));
    const side = (name, ports) => ports.map((_, i) => arrays.get(ports.length === 1 ? name : `${name}_${i}`));
    const inputs = side("inputs", this.signature.inputs);
    const outputs = side("outputs", this.signature.outputs);
    const samples = inputs[0]?.shape[0] ?? 0;
    if (samples < 1 || [...inputs, ...outputs].some((array) => array?.shape[0] !== samples)) {
      throw damaged("golden.npz: its arrays hold different numbers of samples");
    }
    const sample = (array, i) => array.data.subarray((i * array.data.length) / samples, ((i + 1) * array.data.length) / samples);
    const list = (side) => Array.from({ length: samples }, (_, i) => side.map((array) => sample(array, i)));
    return { samples, inputs: list(inputs), outputs: list(outputs) };
  }

  // Golden inputs through the engine, its outputs against the golden ones, and some calls timed, in seconds. `median` is
  // of the means of blocks of `block` calls; what was promised was measured on the bundle's target.
  async selfTest() {
    const golden = await this.golden();
    let right = 0;
    let difference = 0;
    for (let i = 0; i < golden.samples; i++) {
      const found = await this.run(golden.inputs[i]);
      found.forEach((output, k) => {
        difference = Math.max(difference, largestDifference(output, golden.outputs[i][k]));
      });
      right += argmax(found[0]) === argmax(golden.outputs[i][0]) ? 1 : 0;
    }
    const { top1: least, absolute: most } = this.manifest.tolerance;
    const top1 = right / golden.samples;
    const ok = top1 >= least && difference <= most;
    const reason = ok ? "" : `top-1 agreement ${top1} of at least ${least}, largest difference ${difference} of at most ${most}`;
    const promised = this.manifest.promised?.latency?.median ?? 0;
    const timed = await this.time(golden.inputs[0]);
    return { ok, reason, samples: golden.samples, top1, difference, tolerance: { top1: least, absolute: most }, ...timed, promised };
  }

  // Time calls with these inputs: {calls, block, median}.
  async time(inputs) {
    const block = async (calls) => {
      const started = performance.now();
      for (let i = 0; i < calls; i++) await this.run(inputs);
      return (performance.now() - started) / 1000 / calls;
    };
    const guess = Math.max(await block(WARM_CALLS), 1e-6);
    const calls = Math.max(1, Math.ceil(BLOCK_SECONDS / guess));
    const means = [];
    const started = performance.now();
    while (means.length < MOST_BLOCKS && (means.length < FEWEST_BLOCKS || performance.now() - started < 1000 * MOST_SECONDS)) {
      means.push(await block(calls));
    }
    means.sort((a, b) => a - b);
    const middle = (means.length - 1) / 2;
    return { calls: calls * means.length, block: calls, median: (means[Math.floor(middle)] + means[Math.ceil(middle)]) / 2 };
  }
}

export function argmax(values) {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}

// Largest |a − b|; infinity where one alone is no number, or the lengths differ.
function largestDifference(a, b) {
  if (a.length !== b.length) return Infinity;
  let largest = 0;
  for (let i = 0; i < a.length; i++) {
    const [x, y] = [Number(a[i]), Number(b[i])];
    if (x === y || (Number.isNaN(x) && Number.isNaN(y))) continue;
    const apart = Math.abs(x - y);
    largest = Math.max(largest, Number.isNaN(apart) ? Infinity : apart);
  }
  return largest;
}
