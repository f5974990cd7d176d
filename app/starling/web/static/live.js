// Drives the live channel: one client of the SDK, its subscription, and what the page shows of both.

import { backoffClient } from "./backoff_client.js";
import { bytesOf, Countdown, describeBytesLeft, onSubmit } from "./forms.js";
import { facts } from "./facts.js";

const HISTORY = 50; // messages that are read when the page opens
const KEPT = 500; // messages that the page keeps
const BREAK_SECONDS = 5;
const NAME_KEY = "starling.name";

const section = document.querySelector("#live");
const find = (selector) => section.querySelector(selector);
const join = find(".join");
const send = find(".send");
const breaking = find(".break");
const countdown = new Countdown(find(".countdown"));

let client = null;
let chat = null;
let missed = null; // how many publications a recovery has brought, while it lasts
let messages = new Map(); // by offset, or by a mark of their own where the channel numbers none
let present = new Map(); // client information by client id

export function startLiveChannel() {
  find(".name-field").hidden = !facts.names;
  join.elements.name.disabled = !facts.names;
  join.elements.name.value = sessionStorage.getItem(NAME_KEY) ?? `guest-${100 + Math.floor(Math.random() * 900)}`;
  find(".channel-field").hidden = facts.developer;
  join.hidden = facts.developer && !facts.names;
  onSubmit(join, () => {
    if (facts.names) sessionStorage.setItem(NAME_KEY, join.elements.name.value.trim());
    connect();
  });
  onSubmit(document.querySelector("#access"), connect);
  onSubmit(send, publish);
  send.elements.message.addEventListener("input", showBytes);
  breaking.addEventListener("click", breakOrConnect);
  document.querySelector(".copy").addEventListener("click", copyCommand);
  showBytes();
  showCode();
  showPresent();
  if (facts.developer || token()) connect();
  else show("idle", "Not connected: enter an access token above");
}

function channelName() {
  return join.elements.channel.value.trim();
}

function token() {
  return document.querySelector("#access-token").value.trim();
}

function address() {
  const url = new URL("connection/websocket", location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  url.hash = "";
  return url.href;
}

// --- the connection ---

function connect() {
  client?.disconnect();
  messages = new Map();
  present = new Map();
  missed = null;
  find(".recovered").textContent = "";
  showProblem("");
  showMessages();
  showPresent();
  showCode();
  if (!facts.developer && !token()) return show("idle", "Not connected: enter an access token above");
  const current = backoffClient(address(), facts.names ? { getToken: ticket } : token() ? { token: token() } : {}, (wait) => {
    if (client !== current) return;
    show("connecting", "Connection lost, the page reconnects");
    countdown.start(wait, "Next attempt in", () => show("connecting", "Connecting…"));
  });
  client = current;
  chat = client.newSubscription(channelName());
  follow(client, chat);
  chat.subscribe();
  client.connect();
}

// In developer mode the name is the user of a one-time ticket. Elsewhere the user's own backend makes tickets and tokens.
async function ticket() {
  const response = await fetch(`${facts.api}/ticket`, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-API-Key": "dev" },
    body: JSON.stringify({ user: join.elements.name.value.trim() }),
  });
  const { result, error } = await response.json();
  if (error) throw new Error(error.message);
  return result.ticket;
}

function follow(own, subscription) {
  const ifCurrent = (act) => (context) => own === client && act(context);
  own.on("connecting", ifCurrent(() => {
    if (facts.names) own.setToken(""); // a ticket opens one session: fetch the next one
    show("connecting", "Connecting…");
  }));
  own.on("connected", ifCurrent(() => {
    showProblem("");
    showUnsent("");
    show("open", "Connected");
  }));
  own.on("disconnected", ifCurrent(({ code, reason }) => {
    if (section.dataset.state === "broken") return;
    show("refused", "Disconnected");
    showProblem(`The service ended the connection: ${reason} (${code}).`);
  }));
  own.on("error", ifCurrent(({ error }) => {
    if (error.code >= 100) showProblem(`${error.message} (${error.code}).`);
  }));
  subscription.on("subscribed", ifCurrent(subscribed));
  subscription.on("publication", ifCurrent(received));
  subscription.on("join", ifCurrent(({ info }) => changePresent(() => present.set(info.client, info))));
  subscription.on("leave", ifCurrent(({ info }) => changePresent(() => present.delete(info.client))));
  subscription.on("error", ifCurrent(({ error }) => showProblem(`${error.message} (${error.code}).`)));
  subscription.on("unsubscribed", ifCurrent(({ code, reason }) => {
    showProblem(`The channel ${channelName()} is not available: ${reason} (${code}).`);
  }));
}

async function subscribed({ wasRecovering, recovered }) {
  const own = chat;
  if (recovered) {
    // The SDK hands over what was missed directly after this event.
    missed = 0;
    setTimeout(showRecovered);
  } else {
    find(".recovered").textContent = wasRecovering ? "The gap is longer than the history: these are its newest messages." : "";
    messages = new Map();
  }
  try {
    const { clients } = await own.presence();
    if (own === chat) changePresent(() => (present = new Map(Object.entries(clients))));
  } catch (error) {
    find(".present").replaceChildren(entry(`Not available: ${error.message} (${error.code})`));
  }
  if (recovered) return;
  try {
    const { publications } = await own.history({ limit: HISTORY, reverse: true });
    if (own === chat) publications.reverse().forEach(keep);
    showMessages();
  } catch (error) {
    find(".recovered").textContent = `No history: ${error.message} (${error.code})`;
  }
}

function showRecovered() {
  find(".recovered").textContent = `Recovered ${missed} ${missed === 1 ? "message" : "messages"}`;
  missed = null;
}

function breakOrConnect() {
  if (section.dataset.state === "open") {
    show("broken", "Connection broken by you");
    client.disconnect();
    countdown.start(BREAK_SECONDS * 1000, "The page reconnects in", () => client.connect());
  } else if (section.dataset.state === "broken") {
    client.connect();
  } else {
    connect();
  }
}

function show(state, sentence) {
  countdown.stop();
  section.dataset.state = state;
  find(".state").textContent = sentence;
  breaking.textContent = { open: "Break the connection", broken: "Reconnect now" }[state] ?? "Connect";
}

function showProblem(sentence) {
  find(".problem").textContent = sentence;
  find(".problem").hidden = !sentence;
}

// --- messages ---

function received(publication) {
  if (missed !== null) missed += 1;
  keep(publication);
  showMessages();
}

function keep(publication) {
  messages.set(publication.offset || Symbol("unnumbered"), publication);
  if (messages.size > KEPT) messages.delete(messages.keys().next().value);
}

function showMessages() {
  const log = find(".log");
  const following = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  const list = log.firstElementChild;
  const shown = new Map([...list.children].map((item) => [item.publication, item]));
  const ordered = [...messages.values()].sort((one, other) => (one.offset ?? 0) - (other.offset ?? 0));
  const items = ordered.map((publication) => shown.get(publication) ?? messageItem(publication));
  // Only what changed is touched, so that a screen reader reads new messages alone.
  for (const item of [...list.children]) if (!items.includes(item)) item.remove();
  items.forEach((item, index) => list.children[index] === item || list.insertBefore(item, list.children[index] ?? null));
  if (following) log.scrollTop = log.scrollHeight;
}

function messageItem(publication) {
  const { data, info } = publication;
  const text = typeof data?.text === "string" ? data.text : JSON.stringify(data);
  const author = info ? info.user || "anonymous" : "server";
  const item = document.createElement("li");
  item.publication = publication;
  item.append(part("bdi", author, "author"), " ", part("span", text, "text"));
  return item;
}

function part(tag, text, className) {
  return Object.assign(document.createElement(tag), { textContent: text, dir: "auto", className });
}

async function publish() {
  const field = send.elements.message;
  const text = field.value;
  showUnsent("");
  if (!text.trim()) return showUnsent("Write a message first.");
  if (bytesLeft(text) < 0) return showUnsent(`This message is too large: ${describeBytesLeft(bytesLeft(text))}.`);
  if (section.dataset.state !== "open") return showUnsent("Not connected. Your text stays here until it was sent.");
  try {
    await chat.publish({ text });
    if (field.value === text) field.value = "";
    showBytes();
  } catch (error) {
    showUnsent(`Not sent: ${error.message} (${error.code}). Your text stays here.`);
  }
}

function showUnsent(sentence) {
  find(".unsent").textContent = sentence;
  find(".unsent").hidden = !sentence;
}

// Bytes of the whole frame count, so what the SDK adds to the text is in it.
function bytesLeft(text) {
  const command = { id: 4294967295, publish: { channel: channelName(), data: { text } } };
  return facts.max_message_bytes - bytesOf(JSON.stringify(command));
}

function showBytes() {
  const left = bytesLeft(send.elements.message.value);
  const hint = find("#live-bytes");
  hint.textContent = describeBytesLeft(left);
  hint.classList.toggle("over", left < 0);
}

// --- who is here ---

function changePresent(change) {
  change();
  showPresent();
}

function showPresent() {
  const counts = new Map();
  for (const { user } of present.values()) counts.set(user || "anonymous", (counts.get(user || "anonymous") ?? 0) + 1);
  const names = [...counts].sort(([one], [other]) => one.localeCompare(other));
  find(".present").replaceChildren(...names.map(([name, count]) => entry(count > 1 ? `${name} (${count} connections)` : name)));
  find(".count").textContent = present.size ? `(${present.size})` : "";
}

function entry(text) {
  return Object.assign(document.createElement("li"), { textContent: text, dir: "auto" });
}

// --- the terminal and the code ---

function showCode() {
  for (const name of section.querySelectorAll("code.channel")) name.textContent = channelName();
  const usual = location.protocol === "http:" && location.host === "localhost:8000";
  const service = usual ? "" : ` --url ${new URL(".", location.href).href.replace(/\/$/, "")}`;
  document.querySelector("#command").textContent = `starling publish ${channelName()} '{"text": "hello"}'${service}`;
  for (const code of document.querySelectorAll("#javascript, #python")) {
    code.dataset.written ??= code.textContent;
    code.textContent = code.dataset.written.replace("ADDRESS", address()).replace("CHANNEL", channelName());
  }
}

async function copyCommand() {
  const command = document.querySelector("#command");
  const status = document.querySelector(".copied");
  try {
    await navigator.clipboard.writeText(command.textContent);
    status.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(command);
    status.textContent = "The browser does not allow it: the line is selected, copy it with the keyboard.";
  }
}
