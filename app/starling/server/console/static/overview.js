// Overview: nodes, the main rates of ten minutes, refusals, and what `starling check` warns of.

import { ago, bytes, call, html, number, Problem, right, Table, useEffect, useLoaded, useRef } from "./client.js";

const RATES = [
  ["messages_out", "Messages to clients"],
  ["publications", "Publications"],
  ["connects", "Connects"],
];

const MINUTES = 10;

function Chart({ rates }) {
  const holder = useRef(null);
  useEffect(() => {
    if (!rates.length) return undefined;
    const colour = getComputedStyle(document.documentElement).getPropertyValue("--pico-color");
    const colours = ["#1976d2", "#e65100", "#2e7d32"];
    const plot = new uPlot(
      {
        width: holder.current.clientWidth,
        height: 220,
        // Always ten minutes: with one step alone the library would show years.
        scales: { x: { range: (_plot, _first, last) => [last - MINUTES * 60, last] } },
        axes: [{ stroke: colour }, { stroke: colour, size: 60 }],
        series: [{}, ...RATES.map(([, label], index) => ({ label: `${label} a second`, stroke: colours[index], width: 2 }))],
      },
      [rates.map((step) => step.at), ...RATES.map(([name]) => rates.map((step) => step[name]))],
      holder.current,
    );
    return () => plot.destroy();
  }, [rates]);
  return html`<div class="chart" ref=${holder} role="img" aria-label="Rates of the last ten minutes"></div>`;
}

export function Overview() {
  const { result, problem } = useLoaded(() => call("overview"), 5, []);
  if (!result) return html`<h1>Overview</h1><${Problem} text=${problem} /><p aria-busy=${!problem}>Loading</p>`;
  const { nodes, missing } = result.nodes;
  const last = result.rates.at(-1) ?? { messages_out: 0, publications: 0, connects: 0 };
  const total = (name) => nodes.reduce((sum, node) => sum + node[name], 0);
  return html`
    <h1>Overview</h1>
    <${Problem} text=${problem} />
    ${missing.map((name) => html`<${Problem} text=${`The node ${name} does not answer.`} />`)}
    ${result.broker.broker !== "up" && html`<${Problem} text=${`The broker is ${result.broker.broker}.`} />`}
    <div class="cards">
      <article><strong>${number(total("connections"))}</strong> connections</article>
      <article><strong>${number(total("users"))}</strong> users</article>
      <article><strong>${number(last.messages_out)}</strong> messages a second</article>
      <article><strong>${number(last.publications)}</strong> publications a second</article>
    </div>
    <h2>Last ten minutes</h2>
    <${Chart} rates=${result.rates} />
    <h2>Nodes</h2>
    <${Table} label="Nodes" heads=${["Node", "State", "Version", right("Connections"), right("Subscriptions"), right("Memory"), right("Event loop lag"), right("Up")]}
      rows=${nodes.map((node) => [
        node.name,
        node.draining ? "drains" : node.ready ? "ready" : "not ready",
        node.version,
        number(node.connections),
        number(node.subscriptions),
        bytes(node.memory_bytes),
        `${number(node.lag_seconds * 1000)} ms`,
        ago(node.uptime),
      ])} />
    <h2>Busiest channels</h2>
    <${Table} label="Busiest channels" heads=${["Channel", right("Subscribers"), right("Messages a second"), right("Deliveries a second")]}
      rows=${result.nodes.channels.map((one) => [
        html`<a href=${`#channels/${encodeURIComponent(one.channel)}`}>${one.channel}</a>`,
        number(one.subscribers),
        number(one.messages_per_second),
        number(one.deliveries_per_second),
      ])} empty="No channel was busy in the last seconds." />
    <h2>Refusals of the last hour</h2>
    <${Table} label="Refusals" heads=${["Reason", right("Refusals")]} rows=${Object.entries(result.refusals)} empty="Nobody was refused." />
    <h2>Warnings</h2>
    ${result.warnings.length ? html`<ul>${result.warnings.map((text) => html`<li>${text}</li>`)}</ul>` : html`<p>None.</p>`}
  `;
}
