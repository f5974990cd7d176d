// Channels: search by prefix, page by page; one channel with presence, history, options, publish and live frames.

import { ago, call, html, number, Problem, right, Said, Table, useAction, useLoaded, useState } from "./client.js";
import { Frames } from "./live.js";

const PAGE = 50;
// What has a meaning in patterns stands for itself in brackets.
const literal = (prefix) => prefix.replace(/[*?[]/g, "[$&]");

export function Channels({ name, writes }) {
  return name ? html`<${Channel} name=${name} writes=${writes} />` : html`<${ChannelList} />`;
}

function ChannelList() {
  const [prefix, setPrefix] = useState("");
  const [cursors, setCursors] = useState([""]);
  const cursor = cursors.at(-1);
  const { result, problem } = useLoaded(
    () => call("channels", { pattern: `${literal(prefix)}*`, limit: PAGE, cursor }),
    10,
    [prefix, cursor],
  );
  const search = (event) => {
    event.preventDefault();
    setPrefix(new FormData(event.target).get("prefix"));
    setCursors([""]);
  };
  return html`
    <h1>Channels</h1>
    <form class="row" role="search" onSubmit=${search}>
      <label>Name begins with <input name="prefix" autocomplete="off" /></label>
      <button>Search</button>
    </form>
    <${Problem} text=${problem} />
    ${result?.missing?.map((node) => html`<${Problem} text=${`The node ${node} does not answer.`} />`)}
    ${result &&
    html`<${Table} label="Channels" heads=${["Channel", right("Clients")]} empty="No channel with subscribers has such a name."
        rows=${Object.entries(result.channels).map(([channel, { num_clients }]) => [
          html`<a href=${`#channels/${encodeURIComponent(channel)}`}>${channel}</a>`,
          number(num_clients),
        ])} />
      <div class="row">
        <button class="secondary" disabled=${cursors.length < 2} onClick=${() => setCursors(cursors.slice(0, -1))}>Previous page</button>
        <button class="secondary" disabled=${!result.cursor} onClick=${() => setCursors([...cursors, result.cursor])}>Next page</button>
      </div>`}
  `;
}

function Channel({ name, writes }) {
  const options = useLoaded(() => call("channel_options", { channel: name }), 0, [name]);
  const given = Object.fromEntries((options.result?.options ?? []).map((option) => [option.name, option.value]));
  return html`
    <p><a href="#channels">All channels</a></p>
    <h1>${name}</h1>
    <${Problem} text=${options.problem} />
    ${options.result &&
    html`
      ${given.presence && html`<${Presence} channel=${name} />`}
      ${given.stream && html`<${Stream} channel=${name} writes=${writes} />`}
      ${given.history_size > 0 && html`<${History} channel=${name} />`}
      ${writes && !given.stream && html`<${Publish} channel=${name} />`}
      ${writes && html`<h2>Live</h2><${Frames} target=${{ channel: name, payload: true }} />`}
      <h2>Options</h2>
      <${Table} label="Options" heads=${["Option", "Value", "From"]}
        rows=${options.result.options.map((option) => [option.name, JSON.stringify(option.value), option.origin])} />
    `}
  `;
}

function Presence({ channel }) {
  const { result, problem } = useLoaded(() => call("presence", { channel }), 5, [channel]);
  return html`
    <h2>Presence</h2>
    <${Problem} text=${problem} />
    ${result &&
    html`<${Table} label="Presence" heads=${["User", "Client", "Info"]} empty="Nobody is in the channel."
      rows=${Object.values(result.presence).map((one) => [
        html`<a href=${`#connections/${encodeURIComponent(one.user ?? "")}`}>${one.user || "(none)"}</a>`,
        one.client,
        JSON.stringify(one.conn_info ?? null),
      ])} />`}
  `;
}

function History({ channel }) {
  const [since, setSince] = useState(null);
  const { result, problem } = useLoaded(
    () => call("history", { channel, limit: 20, reverse: true, ...(since && { since }) }),
    since ? 0 : 5,
    [channel, since],
  );
  const last = result?.publications?.at(-1);
  return html`
    <h2>History</h2>
    <${Problem} text=${problem} />
    ${result &&
    html`<p>Position ${result.offset}, epoch ${result.epoch}. The newest come first.</p>
      <${Table} label="History" heads=${[right("Offset"), "Data", "User"]} empty="The channel keeps nothing at the moment."
        rows=${result.publications.map((one) => [one.offset, html`<code>${JSON.stringify(one.data ?? one.b64data)}</code>`, one.info?.user ?? ""])} />
      <div class="row">
        <button class="secondary" disabled=${!since} onClick=${() => setSince(null)}>Newest</button>
        <button class="secondary" disabled=${!last || result.publications.length < 20} onClick=${() => setSince({ offset: last.offset, epoch: result.epoch })}>Older</button>
      </div>`}
  `;
}

function Stream({ channel, writes }) {
  const [said, act] = useAction();
  const { result, problem } = useLoaded(() => call("stream_info", { channel }), 2, [channel]);
  return html`
    <h2>Stream</h2>
    <${Problem} text=${problem} />
    ${result && html`<p>${result.type}, ${result.status}, ${number(result.length ?? 0)} long.</p>`}
    ${writes &&
    result?.status === "open" &&
    html`<button onClick=${() => act("Stop this stream?", () => call("stream_cancel", { channel, reason: "stopped in the console" }), "Stopped.")}>Stop</button>`}
    <${Said} said=${said} />
  `;
}

function Publish({ channel }) {
  const [said, act] = useAction();
  const publish = (event) => {
    event.preventDefault();
    const text = new FormData(event.target).get("data");
    act("", () => call("publish", { channel, data: JSON.parse(text) }), "Published.");
  };
  return html`
    <h2>Publish</h2>
    <form onSubmit=${publish}>
      <label>Data, as JSON <textarea name="data" rows="3" required>{"text": "hello"}</textarea></label>
      <button>Publish</button>
    </form>
    <${Said} said=${said} />
  `;
}
