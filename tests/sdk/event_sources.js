// Opens an EventSource for each address, and prints their events, one JSON object a line.
// node event_sources.js ADDRESS…

import { EventSource } from "eventsource";

const TYPES = ["open", "message", "reset", "unsubscribe", "disconnect"];

process.argv.slice(2).forEach((address, index) => {
  const source = new EventSource(address);
  const print = (fields) => console.log(JSON.stringify({ source: index, ...fields }));
  for (const type of TYPES) {
    source.addEventListener(type, (event) => print({ type, data: event.data, id: event.lastEventId }));
  }
  source.addEventListener("error", (event) => print({ type: "error", status: event.code, closed: source.readyState === 2 }));
});
