// Live: the frames of a user or about a channel, from all nodes, with filters and a pause.

import { html, live, Problem, useEffect, useRef, useState } from "./client.js";

const KEPT = 500;

export function Live({ writes }) {
  const [target, setTarget] = useState(null);
  const begin = (event) => {
    event.preventDefault();
    const fields = new FormData(event.target);
    setTarget({ [fields.get("kind")]: fields.get("name"), payload: fields.get("payload") === "on" });
  };
  if (!writes) return html`<h1>Live</h1><p>Readers cannot watch frames.</p>`;
  return html`
    <h1>Live</h1>
    <form class="row" onSubmit=${begin}>
      <label>Of <select name="kind"><option value="channel">channel</option><option value="user">user</option></select></label>
      <label>Name <input name="name" required autocomplete="off" /></label>
      <label><input type="checkbox" name="payload" /> with data</label>
      <button>Watch</button>
    </form>
    ${target && html`<${Frames} target=${target} key=${JSON.stringify(target)} />`}
  `;
}

export function Frames({ target }) {
  const [lines, setLines] = useState([]);
  const [filter, setFilter] = useState("");
  const [problem, setProblem] = useState("");
  const [paused, setPaused] = useState(false);
  const isPaused = useRef(false);
  isPaused.current = paused;
  useEffect(() => {
    const ended = new AbortController();
    (async () => {
      try {
        for (;;) {
          for await (const line of live(target, ended.signal)) {
            if (line.error) throw new Error(line.error.message);
            if (!line.capture && !line.ended && !isPaused.current) setLines((kept) => [line, ...kept].slice(0, KEPT));
          }
        }
      } catch (error) {
        if (!ended.signal.aborted) setProblem(error.message);
      }
    })();
    return () => ended.abort();
  }, []);
  const shown = lines.map((line) => JSON.stringify(line)).filter((text) => text.includes(filter));
  return html`
    <${Problem} text=${problem} />
    <div class="row">
      <label>Show lines with <input value=${filter} onInput=${(event) => setFilter(event.target.value)} autocomplete="off" /></label>
      <button class="secondary" aria-pressed=${paused} onClick=${() => setPaused(!paused)}>${paused ? "Go on" : "Pause"}</button>
      <button class="secondary" onClick=${() => setLines([])}>Clear</button>
    </div>
    <p>${lines.length ? `${shown.length} of ${lines.length} frames, the newest first.` : "No frame yet."}</p>
    <ol class="lines">${shown.map((text) => html`<li>${text}</li>`)}</ol>
  `;
}
