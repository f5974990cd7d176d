// Socket.IO's chat: what one client publishes is emitted to all; with a second argument, over Redis at that address.
const { createServer } = require("node:http");
const { Server } = require("socket.io");
const { createAdapter } = require("@socket.io/redis-adapter");
const { createClient } = require("redis");

const [port, redis] = process.argv.slice(2);

async function main() {
  const http = createServer();
  const io = new Server(http);
  if (redis) {
    const publisher = createClient({ url: redis });
    const subscriber = publisher.duplicate();
    await Promise.all([publisher.connect(), subscriber.connect()]);
    io.adapter(createAdapter(publisher, subscriber));
  }
  io.on("connection", (socket) => {
    socket.on("publish", (message) => io.emit("message", message));
  });
  http.listen({ host: "127.0.0.1", port: Number(port), backlog: 4096 });
}

main();
