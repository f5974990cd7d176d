// Limits and settings: effective values, never secrets. Token: what it grants, or why it is refused.

import { call, html, Problem, Said, Table, useAction, useLoaded, useState } from "./client.js";

export function Settings() {
  const [filter, setFilter] = useState("");
  const { result, problem } = useLoaded(() => call("settings"), 0, []);
  const fits = (one) => `${one.variable} ${one.meaning}`.toLowerCase().includes(filter.toLowerCase());
  const sections = [...new Set((result ?? []).map((one) => one.section))];
  return html`
    <h1>Limits and settings</h1>
    <${Problem} text=${problem} />
    <label>Show settings with <input value=${filter} onInput=${(event) => setFilter(event.target.value)} autocomplete="off" /></label>
    ${sections.map((section) => {
      const rows = result.filter((one) => one.section === section && fits(one));
      return (
        rows.length > 0 &&
        html`<h2>${section}</h2>
          <${Table} label=${section} heads=${["Setting", "Value", "From", "Meaning"]}
            rows=${rows.map((one) => [html`<code>${one.variable}</code>`, one.value, one.given ? "set" : "default", one.meaning])} />`
      );
    })}
  `;
}

export function Token() {
  const [answer, setAnswer] = useState(null);
  const [said, act] = useAction();
  const verify = async (event) => {
    event.preventDefault();
    setAnswer(null);
    const found = await act("", () => call("verify_token", { token: new FormData(event.target).get("token") }), "");
    if (found) setAnswer(found);
  };
  return html`
    <h1>Token</h1>
    <form onSubmit=${verify}>
      <label>Token <textarea name="token" rows="4" required spellcheck="false" autocomplete="off"></textarea></label>
      <button>Explain</button>
    </form>
    <${Said} said=${said} />
    ${answer && html`<p role="status" class=${answer.accepted ? "good" : "problem"}>${answer.sentence}</p>
      <ul>${answer.details.map((line) => html`<li><code>${line}</code></li>`)}</ul>`}
  `;
}
