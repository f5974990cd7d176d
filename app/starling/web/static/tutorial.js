// Drives the three exercises. An Endpoint is one WebSocket and its part of the page.

import { complain, onSubmit } from "./forms.js";

const SUBPROTOCOL = "starling.v1";
const LOG_LIMIT = 500; // messages that a log keeps
const FILE_LIMIT = 16 * 2 ** 20; // bytes; no service can be set to take larger messages
const HEX_LIMIT = 32; // bytes of a binary message that are shown

const MEANING = {
  1000: "normal end",
  1001: "the other side is going away",
  1003: "this endpoint does not take that kind of message",
  1005: "without a code",
  1006: "the connection was lost",
  1007: "the text was not UTF-8",
  1008: "against the rules of this endpoint",
  1009: "the message was too large",
  1011: "an error in the service",
  1012: "the service restarts; connect again",
  1013: "too busy or too slow; connect again later",
};

const accessForm = document.querySelector("#access");
const accessField = document.querySelector("#access-token");

class Endpoint {
  #path;
  #socket = null;
  #opening = null;
  #state;
  #refusal;
  #connectForm;
  #log;

  // `path` gives the address below the page's own, anew for each connection.
  constructor(section, path) {
    this.section = section;
    this.#path = path;
    this.#state = section.querySelector(".state");
    this.#refusal = section.querySelector(".refusal");
    this.#connectForm = section.querySelector(".connect");
    this.#log = section.querySelector(".log");
    onSubmit(this.#connectForm, () => (this.#socket ? this.disconnect() : this.connect()));
    this.#show("idle", "Not connected");
  }

  get inUse() {
    return this.#socket !== null || this.section.dataset.state === "refused";
  }

  // Resolves once the WebSocket is open, or has failed to open.
  async connect() {
    if (!this.#socket && this.#valid()) this.#open();
    await this.#opening;
  }

  disconnect() {
    this.#show("closing", "Closing…");
    this.#socket.close(1000);
  }

  reconnect() {
    if (!this.#valid()) return;
    this.#socket?.close(1000);
    this.#open();
  }

  // Connects first where need be; resolves to whether the message went out.
  async send(data) {
    await this.connect();
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(data);
    return true;
  }

  #valid() {
    return accessField.reportValidity() && this.#connectForm.reportValidity();
  }

  #open() {
    this.#show("connecting", "Connecting…");
    this.#socket = new WebSocket(addressOf(this.#path()), subprotocols());
    this.#socket.binaryType = "arraybuffer";
    this.#opening = new Promise((settle) => this.#follow(this.#socket, settle));
  }

  #follow(socket, settle) {
    let opened = false;
    socket.addEventListener("open", () => {
      opened = true;
      settle();
      if (this.#socket === socket) this.#show("open", "Open");
    });
    socket.addEventListener("message", ({ data }) => {
      this.#append(typeof data === "string" ? data : describeBytes(new Uint8Array(data)));
    });
    socket.addEventListener("close", ({ code, reason }) => {
      settle();
      if (this.#socket !== socket) return; // another connection has taken its place
      const asked = this.section.dataset.state === "closing";
      this.#socket = null;
      if (opened) this.#show("closed", describeClose(code, reason));
      else if (asked) this.#show("closed", "Not connected: given up before it opened");
      else this.#showRefusal();
    });
  }

  #show(state, sentence) {
    this.section.dataset.state = state;
    this.#state.textContent = sentence;
    this.#refusal.hidden = true;
    const live = state === "connecting" || state === "open" || state === "closing";
    this.#connectForm.querySelector("button").textContent = live ? "Disconnect" : "Connect";
  }

  // The browser does not report why an upgrade failed, so show what is known of the service and what to check.
  async #showRefusal() {
    this.#show("refused", "Refused");
    const parts = document.querySelector("#refused").content.cloneNode(true);
    const own = parts.querySelector(".own");
    own.textContent = this.section.dataset.hint ?? "";
    own.hidden = !own.textContent;
    parts.querySelector(subprotocols().length ? ".without-token" : ".with-token").remove();
    this.#refusal.replaceChildren(parts);
    this.#refusal.hidden = false;
    const trouble = await troubleOfService();
    if (trouble) this.#refusal.replaceChildren(Object.assign(document.createElement("p"), { textContent: trouble }));
  }

  #append(sentence) {
    const list = this.#log.firstElementChild;
    const following = this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight < 40;
    list.append(Object.assign(document.createElement("li"), { textContent: sentence, dir: "auto" }));
    while (list.children.length > LOG_LIMIT) list.firstElementChild.remove();
    if (following) this.#log.scrollTop = this.#log.scrollHeight;
  }
}

function addressOf(path) {
  const address = new URL(path, location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  return address;
}

function subprotocols() {
  const token = accessField.value.trim();
  return token ? [SUBPROTOCOL, `bearer.${token}`] : [];
}

function describeBytes(bytes) {
  const shown = Array.from(bytes.subarray(0, HEX_LIMIT), (byte) => byte.toString(16).padStart(2, "0")).join(" ");
  const size = `${bytes.length} ${bytes.length === 1 ? "byte" : "bytes"}`;
  return `Binary, ${size}${shown && ": "}${shown}${bytes.length > HEX_LIMIT ? " …" : ""}`;
}

function describeClose(code, reason) {
  return `Closed: ${code}${MEANING[code] ? `, ${MEANING[code]}` : ""}${reason ? ` (${reason})` : ""}`;
}

async function troubleOfService() {
  try {
    const answer = await fetch("readyz", { cache: "no-store", signal: AbortSignal.timeout(3000) });
    if (answer.ok) return "";
    const { reasons = [] } = await answer.json();
    return `The service takes no new clients now (${reasons.join(", ") || answer.status}). Try again in a moment.`;
  } catch {
    return `The service at ${location.host} does not answer. Is it running?`;
  }
}

// --- echo ---

const echo = new Endpoint(document.querySelector("#echo"), () => "ws");
const echoForm = echo.section.querySelector(".send");
const fileForm = echo.section.querySelector(".send-file");

onSubmit(echoForm, async () => {
  const { message, kind } = echoForm.elements;
  if (kind.value === "json" && !isJson(message.value)) return complain(message, "This is not JSON.");
  const data = kind.value === "bytes" ? new TextEncoder().encode(message.value) : message.value;
  if (await echo.send(data)) message.value = "";
});

onSubmit(fileForm, async () => {
  const { file } = fileForm.elements;
  const [chosen] = file.files;
  if (chosen.size > FILE_LIMIT) return complain(file, "This file is over 16 MiB, more than any service takes.");
  if (await echo.send(chosen)) fileForm.reset();
});

function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

// --- items ---

const items = new Endpoint(document.querySelector("#items"), () => {
  const { item_id: itemId, token, q } = items.section.querySelector(".connect").elements;
  const query = new URLSearchParams();
  if (token.value) query.set("token", token.value);
  if (q.value) query.set("q", q.value);
  return `items/${encodeURIComponent(itemId.value)}/ws?${query}`;
});

// --- chat ---

const clientId = Date.now();
document.querySelector("#client-id").textContent = clientId;
const chat = new Endpoint(document.querySelector("#chat"), () => `ws/${clientId}`);

for (const endpoint of [items, chat]) {
  const form = endpoint.section.querySelector(".send");
  onSubmit(form, async () => {
    const { message } = form.elements;
    if (await endpoint.send(message.value)) message.value = "";
  });
}

onSubmit(accessForm, () => [echo, items, chat].filter((endpoint) => endpoint.inUse).forEach((endpoint) => endpoint.reconnect()));

export function startTutorial() {
  echo.connect();
  chat.connect();
}
