// Probe of transformers.js: its own classes and tokenizer on onnx/model.onnx (`harness.py` describes request and result).
//
//     node transformers_js.mjs REQUEST.json OUT
//
// `@huggingface/transformers` is looked up from the current directory, then in NODE_PATH.

import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

const PACKAGE = "@huggingface/transformers";
// The graph computes the logits of all tokens.
const LARGEST_LOGITS = 2 ** 31;
const TOO_LONG = "the logits of all tokens of a longer text take more than 2 GB";
const OTHER_TOKENS = "its pipeline reads texts, which its tokenizer splits differently";
const CLASSES = {
  ForMaskedLM: "AutoModelForMaskedLM",
  ForSequenceClassification: "AutoModelForSequenceClassification",
  ForTokenClassification: "AutoModelForTokenClassification",
  Model: "AutoModel",
};

function unsupported(request) {
  if (request.custom_code) return "knows no custom code: release with --format plain";
  if (!(request.head in CLASSES)) return "has no class for this head of ModernBERT";
  const file = path.join(request.folder, "onnx", "model.onnx");
  return fs.existsSync(file) ? null : "needs onnx/model.onnx: release with --onnx";
}

// Pooling and normalization of the feature-extraction pipeline, or null if the embedder has more than these.
function pooling(request) {
  if (request.embedder !== "SentenceTransformer") return null;
  const read = (...names) => JSON.parse(fs.readFileSync(path.join(request.folder, ...names), "utf-8"));
  const modules = read("modules.json");
  const types = modules.map((module) => module.type.split(".").at(-1)).join(" ");
  if (!["Transformer Pooling", "Transformer Pooling Normalize"].includes(types)) return null;
  const settings = read(modules[1].path, "config.json");
  // sentence-transformers 6 names the mode, older versions have a key for each.
  const keys = { mean: "pooling_mode_mean_tokens", cls: "pooling_mode_cls_token" };
  const mode = Object.keys(keys).find((name) => settings.pooling_mode === name || settings[keys[name]] === true);
  return mode === undefined ? null : { pooling: mode, normalize: modules.length === 3 };
}

// The rows of a padded output that belong to each text: all of it, its tokens, or its masks.
function split(output, name, batch, request) {
  const [texts, ...inner] = output.dims;
  const size = inner.reduce((product, length) => product * length, 1);
  const rows = [];
  for (let text = 0; text < texts; text++) {
    const data = output.data.subarray(text * size, (text + 1) * size);
    if (inner.length === 1) {
      rows.push({ shape: inner, data });
      continue;
    }
    const width = inner.at(-1);
    const masksOnly = name === "logits" && request.mask_token_id !== null;
    const kept = [...batch.attention_mask[text].keys()].filter((token) =>
      masksOnly ? batch.input_ids[text][token] === request.mask_token_id : batch.attention_mask[text][token] === 1,
    );
    const selected = new Float32Array(kept.length * width);
    kept.forEach((token, row) => selected.set(data.subarray(token * width, (token + 1) * width), row * width));
    rows.push({ shape: [kept.length, width], data: selected });
  }
  return rows;
}

// The outputs by name, with null for texts that are left out, and why they are.
async function compute(library, request) {
  library.env.allowRemoteModels = false;
  library.env.localModelPath = path.dirname(request.folder);
  const name = path.basename(request.folder);
  const outputs = {};
  const leftOut = {};
  const tokenizer = await library.AutoTokenizer.from_pretrained(name);
  const encode = (texts) =>
    texts.map(([text, pair]) => {
      const { input_ids: ids } = tokenizer(text, { text_pair: pair, return_tensor: false });
      return { shape: [ids.length], data: BigInt64Array.from(ids, BigInt) };
    });
  outputs.token_ids = encode(request.texts);
  const model = await library[CLASSES[request.head]].from_pretrained(name, { dtype: "fp32", device: "cpu" });
  const vocabulary = request.mask_token_id === null ? 0 : model.config.vocab_size;
  const isTooLong = (tokens) => tokens * vocabulary * 4 > LARGEST_LOGITS;
  for (const batch of request.batches) {
    if (isTooLong(batch.input_ids.flat().length)) {
      for (const key of Object.keys(outputs).slice(1)) {
        outputs[key].push(...batch.input_ids.map(() => null));
        leftOut[key] = TOO_LONG;
      }
      continue;
    }
    const inputs = {};
    for (const [key, rows] of Object.entries(batch)) {
      inputs[key] = new library.Tensor("int64", BigInt64Array.from(rows.flat(), BigInt), [rows.length, rows[0].length]);
    }
    for (const [key, output] of Object.entries(await model(inputs))) {
      (outputs[key] ??= []).push(...split(output, key, batch, request));
    }
  }
  await model.dispose();
  const options = pooling(request);
  if (options !== null) {
    outputs.sentence_ids = encode(request.sentences);
    const extract = await library.pipeline("feature-extraction", name, { dtype: "fp32", device: "cpu" });
    outputs.sentence_embedding = [];
    for (const [number, [sentence]] of request.sentences.entries()) {
      const ids = request.sentence_ids[number];
      if (isTooLong(ids.length) || outputs.sentence_ids[number].data.join() !== ids.join()) {
        outputs.sentence_embedding.push(null);
        leftOut.sentence_embedding = isTooLong(ids.length) ? TOO_LONG : OTHER_TOKENS;
        continue;
      }
      const { dims, data } = await extract(sentence, options);
      outputs.sentence_embedding.push({ shape: dims.slice(1), data });
    }
  }
  return { outputs, leftOut };
}

async function run(request, out) {
  let library;
  const require = createRequire(path.join(process.cwd(), "probe.mjs"));
  try {
    library = require(PACKAGE);
  } catch (error) {
    if (error.code !== "MODULE_NOT_FOUND") throw error;
    return { status: "not installed", reason: `needs ${PACKAGE}` };
  }
  const result = { version: library.env.version };
  const reason = unsupported(request);
  if (reason !== null) return { ...result, status: "not supported", reason };
  const started = performance.now();
  const { outputs, leftOut } = await compute(library, request);
  const entries = {};
  for (const [name, rows] of Object.entries(outputs)) {
    entries[name] = rows.map((row, number) => {
      if (row === null) return null;
      const { shape, data } = row;
      const file = `${name}-${number}.bin`;
      fs.writeFileSync(path.join(out, file), new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
      return { file, shape, dtype: data instanceof Float32Array ? "<f4" : "<i8" };
    });
  }
  const seconds = (performance.now() - started) / 1000;
  return { ...result, status: "ok", seconds, outputs: entries, left_out: leftOut };
}

const [requestFile, out] = process.argv.slice(2);
const request = JSON.parse(fs.readFileSync(requestFile, "utf-8"));
let result;
try {
  result = await run(request, out);
} catch (error) {
  result = { status: "failed", reason: String(error).split("\n")[0] };
}
fs.writeFileSync(path.join(out, "result.json"), JSON.stringify(result));
