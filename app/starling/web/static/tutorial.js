// Drives the three exercises. An Endpoint is one WebSocket and its part of the page.

import { facts } from "./facts.js";
import { bytesOf, complain, Countdown, describeBytesLeft, onSubmit } from "./forms.js";

const SUBPROTOCOL = "starling.v1";
const LOG_LIMIT = 500; // messages that a log keeps
const FILE_LIMIT = 16 * 2 ** 20; // bytes; no service can be set to take larger messages
const HEX_LIMIT = 32; // bytes of a binary message that are shown

const FIRST_WAIT = 1000; // milliseconds before the first attempt to reconnect; doubled each time
const LONGEST_WAIT = 20_000; // milliseconds
const LOST = new Set([1001, 1006, 1012, 1013]); // closing codes after which it makes sense to reconnect

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
  #countdown;
  #attempts = 0; // to reconnect, since a connection lasted or a button was pressed
  #lost = ""; // what ended the connection that is to be opened again

  // `path` gives the address below the page's own, anew for each connection.
  constructor(section, path) {
    this.section = section;
    this.#path = path;
    this.#state = section.querySelector(".state");
    this.#refusal = section.querySelector(".refusal");
    this.#connectForm = section.querySelector(".connect");
    this.#log = section.querySelector(".log");
    this.#countdown = new Countdown(this.#connectForm.querySelector(".countdown"));
    onSubmit(this.#connectForm, () => (this.#socket ? this.disconnect() : this.connect()));
    this.#show("idle", "Not connected");
  }

  get inUse() {
    return this.#socket !== null || this.section.dataset.state === "refused";
  }

  // Resolves once the WebSocket is open, or has failed to open.
  async connect() {
    if (!this.#socket && this.#valid()) {
      this.#forget();
      this.#open();
    }
    await this.#opening;
  }

  disconnect() {
    this.#forget();
    this.#show("closing", "Closing…");
    this.#socket.close(1000);
  }

  reconnect() {
    if (!this.#valid()) return;
    this.#forget();
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
    let opened = 0; // when it opened, in milliseconds since the page did
    socket.addEventListener("open", () => {
      opened = performance.now();
      settle();
      if (this.#socket !== socket) return;
      this.#lost = "";
      this.#show("open", "Open");
    });
    socket.addEventListener("message", ({ data }) => {
      this.#append(typeof data === "string" ? data : describeBytes(new Uint8Array(data)));
    });
    socket.addEventListener("close", ({ code, reason }) => {
      settle();
      if (this.#socket !== socket) return; // another connection has taken its place
      const asked = this.section.dataset.state === "closing";
      this.#socket = null;
      if (performance.now() - opened > LONGEST_WAIT) this.#attempts = 0;
      if (opened && !asked && LOST.has(code)) this.#retryLater(describeClose(code, reason));
      else if (opened) this.#show("closed", describeClose(code, reason));
      else if (asked) this.#show("closed", "Not connected: given up before it opened");
      else if (this.#lost) this.#retryIfAway();
      else this.#showRefusal();
    });
  }

  #forget() {
    this.#attempts = 0;
    this.#lost = "";
  }

  // Opens the endpoint again, later each time; `sentence` says why it is closed.
  #retryLater(sentence) {
    const longest = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** this.#attempts);
    this.#attempts += 1;
    this.#lost = sentence;
    this.#show("closed", sentence);
    this.#countdown.start(longest * (0.5 + Math.random() / 2), "Next attempt in", () => this.#open());
  }

  // A service that answers has refused the connection; one that does not is tried again.
  async #retryIfAway() {
    const sentence = this.#lost;
    this.#show("closed", sentence);
    const away = await troubleOfService();
    if (this.#socket || this.#lost !== sentence) return; // somebody has pressed a button
    if (away) this.#retryLater(sentence);
    else this.#showRefusal();
  }

  #show(state, sentence) {
    this.#countdown.stop();
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

// What the service takes in one message counts in bytes, of which a letter may have four.
function bytesLeft(field) {
  return facts.max_message_bytes - bytesOf(field.value);
}

for (const hint of document.querySelectorAll("#tutorial-panel .bytes")) {
  const field = hint.closest("form").elements.message;
  const update = () => {
    hint.textContent = describeBytesLeft(bytesLeft(field));
    hint.classList.toggle("over", bytesLeft(field) < 0);
  };
  field.addEventListener("input", update);
  field.addEventListener("sent", update);
  update();
}

// Empties the field of a message that was sent.
function clear(field) {
  field.value = "";
  field.dispatchEvent(new Event("sent"));
}

function isTooLarge(field) {
  const left = bytesLeft(field);
  if (left < 0) complain(field, `This message is too large: ${describeBytesLeft(left)}.`);
  return left < 0;
}

onSubmit(echoForm, async () => {
  const { message, kind } = echoForm.elements;
  if (isTooLarge(message)) return;
  if (kind.value === "json" && !isJson(message.value)) return complain(message, "This is not JSON.");
  const data = kind.value === "bytes" ? new TextEncoder().encode(message.value) : message.value;
  if (await echo.send(data)) clear(message);
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
    if (!isTooLarge(message) && (await endpoint.send(message.value))) clear(message);
  });
}

onSubmit(accessForm, () => [echo, items, chat].filter((endpoint) => endpoint.inUse).forEach((endpoint) => endpoint.reconnect()));

export function startTutorial() {
  echo.connect();
  chat.connect();
}
