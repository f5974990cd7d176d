// Shows one of the page's two tabs, and starts what belongs to it when it is first shown.

import { facts } from "./facts.js";
import { startLiveChannel } from "./live.js";
import { startTutorial } from "./tutorial.js";

const START = { live: startLiveChannel, tutorial: startTutorial };
const tabs = [...document.querySelectorAll("[role=tab]")];
const started = new Set();

function show(name) {
  for (const tab of tabs) {
    const chosen = tab.dataset.panel === name;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    document.getElementById(tab.getAttribute("aria-controls")).hidden = !chosen;
  }
  if (started.has(name)) return;
  started.add(name);
  START[name]();
}

function chosenByAddress() {
  return location.hash === "#tutorial" && facts.tutorial ? "tutorial" : "live";
}

for (const [index, tab] of tabs.entries()) {
  tab.addEventListener("click", () => {
    history.replaceState(null, "", `#${tab.dataset.panel}`);
    show(tab.dataset.panel);
  });
  tab.addEventListener("keydown", ({ key }) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[key];
    if (!step) return;
    const next = tabs[(index + step + tabs.length) % tabs.length];
    next.focus();
    next.click();
  });
}
window.addEventListener("hashchange", () => show(chosenByAddress()));

document.querySelector("[role=tablist]").hidden = !facts.tutorial;
document.querySelector("#access").hidden = facts.developer;
const local = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
const consoleLink = document.querySelector(".console-link");
consoleLink.hidden = !(facts.console_port && local);
if (!consoleLink.hidden) consoleLink.querySelector("a").href = `http://localhost:${facts.console_port}/console`;
const reference = document.querySelector(".api-docs");
reference.hidden = !facts.api_docs;
if (facts.api_docs) {
  const [page, source] = reference.querySelectorAll("a");
  page.href = facts.api_docs;
  source.href = new URL("openapi.json", page.href).href;
}
document.querySelector(".guide").hidden = !facts.guide;
show(chosenByAddress());
