// Users and connections: find a user, disconnect, revoke, and which rule decides what the user may do.

import { ago, call, html, number, Problem, right, Said, Table, useAction, useLoaded, useState } from "./client.js";

const VERBS = ["subscribe", "publish", "presence", "history"];

export function Connections({ name, writes }) {
  const [user, setUser] = useState(name || null);
  const [cursors, setCursors] = useState([""]);
  const [said, act] = useAction();
  const [acted, setActed] = useState(0);
  const cursor = cursors.at(-1);
  const { result, problem } = useLoaded(
    () => call("connections", { limit: 50, cursor, ...(user !== null && { user }) }),
    10,
    [user, cursor, acted],
  );
  const search = (event) => {
    event.preventDefault();
    setUser(new FormData(event.target).get("user") || null);
    setCursors([""]);
  };
  const change = async (...action) => (await act(...action)) && setActed(acted + 1);
  return html`
    <h1>Users and connections</h1>
    <form class="row" role="search" onSubmit=${search}>
      <label>User id <input name="user" autocomplete="off" defaultValue=${user ?? ""} /></label>
      <button>Search</button>
    </form>
    <${Problem} text=${problem} />
    ${result?.missing?.map((node) => html`<${Problem} text=${`The node ${node} does not answer.`} />`)}
    ${result &&
    html`<${Table} label="Connections" empty="There is no such connection."
        heads=${["User", "Client", "Transport", "Address", "Node", right("For"), right("Received"), right("Sent"), "Channels", ...(writes ? ["Action"] : [])]}
        rows=${result.connections.map((one) => [
          one.user || "(none)",
          one.client,
          one.transport,
          one.address,
          one.node,
          ago(Date.now() / 1000 - one.since),
          number(one.received),
          number(one.sent),
          one.num_channels > 3 ? `${one.channels.slice(0, 3).join(", ")} and ${one.num_channels - 3} more` : one.channels.join(", "),
          ...(writes
            ? [
                html`<button aria-label=${`Disconnect ${one.client}`}
                  onClick=${() => change(`Disconnect ${one.client}?`, () => call("disconnect", { user: one.user, client: one.client }), "Disconnected.")}>Disconnect</button>`,
              ]
            : []),
        ])} />
      <div class="row">
        <button class="secondary" disabled=${cursors.length < 2} onClick=${() => setCursors(cursors.slice(0, -1))}>Previous page</button>
        <button class="secondary" disabled=${!result.cursor} onClick=${() => setCursors([...cursors, result.cursor])}>Next page</button>
      </div>`}
    ${writes &&
    user &&
    html`<div class="row">
      <button onClick=${() => change(`Disconnect every connection of ${user}?`, () => call("disconnect", { user }), "Disconnected.")}>Disconnect ${user}</button>
      <button onClick=${() => change(`Refuse all tokens that ${user} has now?`, () => call("invalidate_user_tokens", { user }), "Revoked.")}>Revoke tokens of ${user}</button>
    </div>`}
    <${Said} said=${said} />
    <${May} user=${user ?? ""} key=${user} />
  `;
}

function May({ user }) {
  const [answer, setAnswer] = useState(null);
  const [said, act] = useAction();
  const ask = async (event) => {
    event.preventDefault();
    const fields = Object.fromEntries(new FormData(event.target));
    setAnswer(null);
    const found = await act("", () => call("can", fields), "");
    if (found) setAnswer(found);
  };
  return html`
    <h2>May a user do something?</h2>
    <form class="row" onSubmit=${ask}>
      <label>User <input name="user" defaultValue=${user} autocomplete="off" /></label>
      <label>Verb <select name="verb">${VERBS.map((verb) => html`<option value=${verb}>${verb}</option>`)}</select></label>
      <label>Channel <input name="channel" required autocomplete="off" /></label>
      <button>Ask</button>
    </form>
    <${Said} said=${said} />
    ${answer && html`<p role="status" class=${answer.allowed ? "good" : "problem"}><strong>${answer.allowed ? "Yes" : "No"}</strong> by ${answer.rule}: ${answer.sentence}.</p>`}
  `;
}
