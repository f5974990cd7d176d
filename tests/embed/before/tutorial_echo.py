"""Echo with a page."""

from fastapi import FastAPI, WebSocket
from fastapi.responses import HTMLResponse

app = FastAPI()

PAGE = """
<!DOCTYPE html>
<title>Echo</title>
<form onsubmit="socket.send(text.value); text.value = ''; return false"><input id="text"><button>Send</button></form>
<ul id="messages"></ul>
<script>
  const socket = new WebSocket(location.origin.replace("http", "ws") + "/ws")
  socket.onmessage = (event) => {
    messages.append(Object.assign(document.createElement("li"), {textContent: event.data}))
  }
</script>
"""


@app.get("/")
async def page() -> HTMLResponse:
    """Show the page."""
    return HTMLResponse(PAGE)


@app.websocket("/ws")
async def echo(websocket: WebSocket) -> None:
    """Send each text back."""
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(f"Message text was: {text}")
