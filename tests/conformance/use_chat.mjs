// The transport of the Vercel AI SDK's useChat: `node use_chat.mjs URL` asks the backend at URL, disconnects in the middle
// of the answer, resumes as a page does that is reloaded, and prints both texts as JSON.
import { createDurableChatTransport } from "@durable-streams/aisdk-transport"
import { readUIMessageStream } from "ai"

const transport = createDurableChatTransport({ api: `${process.argv[2]}/chat` })
const chatId = "42"
const textOf = message => message.parts.map(part => part.text ?? "").join("")

async function read(stream, enough = () => false) {
  let text = ""
  for await (const message of readUIMessageStream({ stream })) {
    text = textOf(message)
    if (enough(text)) break
  }
  return text
}

const none = await transport.reconnectToStream({ chatId })
const leaving = new AbortController()
const messages = [{ id: "1", role: "user", parts: [{ type: "text", text: "Once upon a time?" }] }]
const asked = await transport.sendMessages({ trigger: "submit-message", chatId, messages, abortSignal: leaving.signal })
const before = await read(asked, text => text.length > 20)
leaving.abort()
const resumed = await read(await transport.reconnectToStream({ chatId }))
console.log(JSON.stringify({ none, before, resumed }))
process.exit(0)
