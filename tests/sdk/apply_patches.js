// Applies patches with the JavaScript SDK's own function, which its bundle keeps to itself: reads lines
// [base, patch, target] from standard input, and prints how many there were and how many gave another target.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const bundle = readFileSync(createRequire(import.meta.url).resolve("centrifuge"), "utf8");
const module = { exports: {} };
const applyDelta = new Function("module", "exports", "require", bundle + "\nreturn applyDelta;")(
  module,
  module.exports,
  createRequire(import.meta.url),
);

let lines = 0;
let wrong = 0;
const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true });
for await (const line of createInterface({ input: process.stdin })) {
  const [base, patch, target] = JSON.parse(line);
  lines += 1;
  try {
    if (decoder.decode(applyDelta(encoder.encode(base), encoder.encode(patch))) !== target) wrong += 1;
  } catch {
    wrong += 1;
  }
}
console.log(JSON.stringify({ lines, wrong }));
