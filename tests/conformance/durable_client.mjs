// The public client for JavaScript: `node durable_client.mjs read|write URL KEY [sse|long-poll]`.
// `read` prints the text of a stream from its start until it is closed; `write` appends the JSON items of standard input, and closes.
import { DurableStream, IdempotentProducer, stream } from "@durable-streams/client"
import { readFileSync } from "node:fs"

const [action, url, key, live] = process.argv.slice(2)
const headers = { "X-API-Key": key }
if (action === "read") {
  const response = await stream({ url, headers, live, offset: "-1" })
  let text = ""
  for await (const piece of response.textStream()) text += piece
  process.stdout.write(text)
} else {
  const created = await DurableStream.create({ url, headers, contentType: "application/json" })
  const producer = new IdempotentProducer(created, "a-producer", { onError: error => { throw error } })
  for (const item of JSON.parse(readFileSync(0, "utf-8"))) producer.append(JSON.stringify(item))
  await producer.close()
}
