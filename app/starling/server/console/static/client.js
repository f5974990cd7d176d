// Requests to the console's own server, and what views share.

import { html, useEffect, useRef, useState } from "./vendor-preact-htm.js";

export { html, useEffect, useRef, useState };

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Sends one request; throws Refused with the server's words. */
export async function post(path, body = {}) {
  let answer;
  try {
    answer = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
  } catch {
    throw new Refused(0, "The internal port does not answer. The pod may be restarting.");
  }
  const content = await answer.json();
  if (content.error) throw new Refused(answer.status, content.error.message);
  return content.result;
}

export const call = (method, body) => post(`api/${method}`, body);

/** Reads the frames of a live view, until `signal` aborts it. */
export async function* live(body, signal) {
  const answer = await fetch("api/live", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line) yield JSON.parse(line);
  }
}

/** Calls `load` now and every `seconds`; returns its result and its problem. A failed call keeps the last result. */
export function useLoaded(load, seconds, keys) {
  const [state, setState] = useState({ result: null, problem: "" });
  useEffect(() => {
    let current = true;
    let timer;
    const run = async () => {
      try {
        const result = await load();
        if (current) setState({ result, problem: "" });
      } catch (error) {
        if (current) setState((before) => ({ result: before.result, problem: error.message }));
      }
      if (current && seconds) timer = setTimeout(run, seconds * 1000);
    };
    run();
    return () => {
      current = false;
      clearTimeout(timer);
    };
  }, keys);
  return state;
}

/** Asks once more for what cannot be undone, and reports what became of it. */
export function useAction() {
  const [said, setSaid] = useState({ text: "", good: true });
  const act = async (question, does, done) => {
    if (question && !confirm(question)) return false;
    try {
      const result = await does();
      setSaid({ text: done, good: true });
      return result ?? true;
    } catch (error) {
      setSaid({ text: error.message, good: false });
      return false;
    }
  };
  return [said, act];
}

export const Said = ({ said }) =>
  html`<p role="status" class=${said.text ? (said.good ? "good" : "problem") : ""}>${said.text}</p>`;

export const Problem = ({ text }) => (text ? html`<p role="alert" class="problem">${text}</p>` : null);

export const Table = ({ label, heads, rows, empty = "None." }) =>
  rows.length === 0
    ? html`<p>${empty}</p>`
    : html`<div class="scroll" tabindex="0" role="region" aria-label=${label}>
        <table>
          <thead>
            <tr>${heads.map((head) => html`<th scope="col" class=${head.number ? "number" : ""}>${head.text ?? head}</th>`)}</tr>
          </thead>
          <tbody>
            ${rows.map(
              (row) =>
                html`<tr>${row.map((cell, index) => html`<td class=${heads[index].number ? "number" : ""}>${cell}</td>`)}</tr>`,
            )}
          </tbody>
        </table>
      </div>`;

export const number = (value) => Number(value).toLocaleString("en", { maximumFractionDigits: 1 });
export const bytes = (value) =>
  value < 2 ** 20 ? `${number(value / 2 ** 10)} KiB` : `${number(value / 2 ** 20)} MiB`;
export const ago = (seconds) =>
  seconds < 120
    ? `${Math.round(seconds)} s`
    : seconds < 7200
      ? `${Math.round(seconds / 60)} min`
      : `${number(seconds / 3600)} h`;
export const right = (text) => ({ text, number: true });
