// What browsers have as EventSource and this Node.js has not, as far as the SDK uses it: data of events, and the end.

export class EventSource {
  constructor(url) {
    this.aborting = new AbortController();
    this.read(url);
  }

  async read(url) {
    try {
      const response = await fetch(url, { headers: { Accept: "text/event-stream" }, signal: this.aborting.signal });
      if (!response.ok || !response.headers.get("content-type").startsWith("text/event-stream")) {
        throw new Error(`status ${response.status}`);
      }
      this.onopen?.({});
      let text = "";
      for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
        const blocks = (text + piece).replaceAll("\r\n", "\n").split("\n\n");
        text = blocks.pop();
        blocks.forEach((block) => this.take(block));
      }
      throw new Error("the stream has ended");
    } catch (error) {
      if (!this.aborting.signal.aborted) this.onerror?.(error);
    }
  }

  take(block) {
    const lines = block.split("\n").filter((line) => line.startsWith("data:"));
    if (lines.length) this.onmessage?.({ data: lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n") });
  }

  close() {
    this.aborting.abort();
  }
}
