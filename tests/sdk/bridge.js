// Lets tests in another process drive the JavaScript SDK as it is: lines of JSON over a Unix socket. A line to here names
// a client and what to do with it, a line from here is its result, an event of the SDK, or a callback that asks.
//
//   node bridge.js PATH_OF_SOCKET

import { createServer } from "node:net";
import { createInterface } from "node:readline";

import { Centrifuge as JsonCentrifuge } from "centrifuge";
import { Centrifuge as ProtobufCentrifuge } from "centrifuge/build/protobuf";
import WebSocket from "ws";

import { EventSource } from "./event_source.js";

const CLIENT_EVENTS = ["connecting", "connected", "disconnected", "error", "message"];
const SERVER_SUBSCRIPTION_EVENTS = ["subscribed", "subscribing", "unsubscribed", "publication", "join", "leave"];
const SUBSCRIPTION_EVENTS = [...SERVER_SUBSCRIPTION_EVENTS, "error"];

class Driver {
  constructor(socket) {
    this.socket = socket;
    this.clients = new Map();
    this.questions = new Map();
    createInterface({ input: socket }).on("line", (line) => this.take(JSON.parse(line)));
    socket.on("close", () => this.clients.forEach(({ sdk }) => sdk.disconnect()));
    socket.on("error", () => {});
  }

  send(message) {
    this.socket.write(JSON.stringify(message) + "\n");
  }

  // A callback of the application lives with the tests: ask there.
  ask(client, callback, argument) {
    const question = this.questions.size + 1;
    this.send({ of: client, ask: callback, question, argument });
    return new Promise((resolve, reject) => this.questions.set(question, { client, resolve, reject }));
  }

  async take(message) {
    if (message.question) {
      const { client, resolve, reject } = this.questions.get(message.question);
      if (message.error === "unauthorized") reject(this.clients.get(client).unauthorized());
      else if (message.error) reject(new Error(message.error));
      else resolve(message.value);
      return;
    }
    const { id, client, call, args } = message;
    try {
      const value = call === "create" ? this.create(client, args) : await this.clients.get(client)[call](args);
      this.send({ id, value: value ?? null });
    } catch (error) {
      this.send({ id, error: { code: error.code ?? 0, message: String(error.message ?? error) } });
    }
  }

  create(number, args) {
    this.clients.set(number, new Client(number, this, args));
  }
}

class Client {
  constructor(number, driver, { url, transports, protobuf, callbacks, mute, options }) {
    this.number = number;
    this.driver = driver;
    this.protobuf = protobuf;
    const client = this;
    // The SDK's own WebSocket, kept at hand to be frozen, cut or spoken through past the SDK.
    class Socket extends WebSocket {
      constructor(...parts) {
        super(...parts);
        client.websocket = this;
      }
      send(data) {
        if (mute === "all" || (mute === "pongs" && data === "{}")) return;
        super.send(data);
      }
    }
    if (options.data) options.data = this.write(options.data);
    if (callbacks.includes("get_token")) options.getToken = () => driver.ask(number, "get_token");
    if (callbacks.includes("get_data")) {
      options.getData = async () => this.write(await driver.ask(number, "get_data"));
    }
    this.SDK = protobuf ? ProtobufCentrifuge : JsonCentrifuge;
    // Every request of a transport over HTTP, so that tests can count those that carry commands.
    this.requests = 0;
    const requests = (...parts) => {
      this.requests += 1;
      return fetch(...parts);
    };
    const over = transports.length ? transports : url;
    this.sdk = new this.SDK(over, { websocket: Socket, eventsource: EventSource, fetch: requests, ...options });
    for (const event of [...CLIENT_EVENTS, ...SERVER_SUBSCRIPTION_EVENTS]) {
      this.sdk.on(event, (context) => this.report(event, context));
    }
  }

  report(event, context) {
    this.driver.send({ of: this.number, event: { event, ...this.read(context) } });
  }

  // Payloads are any bytes with Protobuf; the tests speak JSON.
  write(value) {
    return this.protobuf ? new TextEncoder().encode(JSON.stringify(value)) : value;
  }

  read(value) {
    if (value instanceof Uint8Array) {
      const text = new TextDecoder().decode(value);
      try {
        return text === "" ? null : JSON.parse(text);
      } catch {
        return { binary: Buffer.from(value).toString("hex") };
      }
    }
    if (value instanceof Error) return { code: value.code, message: value.message };
    if (Array.isArray(value)) return value.map((item) => this.read(item));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([name, item]) => [snake(name), this.read(item)]));
  }

  unauthorized() {
    return new this.SDK.UnauthorizedError("");
  }

  subscription({ channel }) {
    return this.sdk.getSubscription(channel);
  }

  connect() {
    this.sdk.connect();
  }

  disconnect() {
    this.sdk.disconnect();
  }

  async ready() {
    await this.sdk.ready(10000);
  }

  sent() {
    return this.requests;
  }

  transport() {
    return this.sdk._transport.subName();
  }

  state() {
    return this.sdk.state;
  }

  subscribe({ channel, callbacks, options }) {
    const ask = (callback) => this.driver.ask(this.number, callback, channel);
    if (callbacks.includes("get_token")) options.getToken = () => ask("get_subscription_token");
    if (callbacks.includes("get_state")) options.getState = () => ask("get_state");
    if (options.data) options.data = this.write(options.data);
    const subscription = this.sdk.newSubscription(channel, options);
    for (const event of SUBSCRIPTION_EVENTS) {
      subscription.on(event, (context) => this.report(event, { channel, ...context }));
    }
    subscription.subscribe();
  }

  resubscribe(args) {
    this.subscription(args).subscribe();
  }

  unsubscribe(args) {
    this.subscription(args).unsubscribe();
  }

  subscription_state(args) {
    return this.subscription(args).state;
  }

  // Leaves from within the handler of the next such event.
  unsubscribe_on({ channel, event }) {
    const subscription = this.subscription({ channel });
    subscription.once(event, () => subscription.unsubscribe());
  }

  async publish({ channel, data }) {
    await this.sdk.publish(channel, this.write(data));
  }

  async publish_binary({ channel, hex }) {
    await this.sdk.publish(channel, Uint8Array.from(Buffer.from(hex, "hex")));
  }

  async rpc({ method, data }) {
    return this.read(await this.sdk.rpc(method, this.write(data)));
  }

  async send({ data }) {
    await this.sdk.send(this.write(data));
  }

  async history({ channel, ...options }) {
    return this.read(await this.sdk.history(channel, options));
  }

  async presence({ channel }) {
    return this.read((await this.sdk.presence(channel)).clients);
  }

  async presence_stats({ channel }) {
    return this.read(await this.sdk.presenceStats(channel));
  }

  // Several publications in one frame.
  async publish_batch({ channel, items }) {
    this.sdk.startBatching();
    const published = items.map((data) => this.sdk.publish(channel, this.write(data)));
    this.sdk.stopBatching();
    await Promise.all(published);
  }

  inject({ text }) {
    if (this.websocket) this.websocket.send(text);
    else this.sdk._transport.send(this.protobuf ? new TextEncoder().encode(text) : text, this.sdk._session, this.sdk._node);
  }

  freeze() {
    this.websocket._socket.pause();
  }

  thaw() {
    this.websocket._socket.resume();
  }

  cut() {
    if (this.websocket) this.websocket.terminate();
    else this.sdk._transport.close();
  }
}

function snake(name) {
  return name.replace(/[A-Z]/g, (letter) => "_" + letter.toLowerCase());
}

createServer((socket) => new Driver(socket)).listen(process.argv[2], () => console.log("ready"));
