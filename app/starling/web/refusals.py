"""The answers to parameters that an endpoint cannot use: a status and a sentence, never a traceback."""

from typing import Any

import msgspec
from fastapi import FastAPI, WebSocket, status
from fastapi.exceptions import WebSocketRequestValidationError
from fastapi.responses import JSONResponse

from starling.protocol.codes import Disconnect, Error
from starling.telemetry.metrics import Metrics


def error_body(reason: Error | Disconnect, detail: str = "") -> bytes:
    """The body of a refused request in the form of the server API: the code of `reason`, and its words with `detail`.

    The words of a disconnect are its reason.
    """
    message = reason.message if isinstance(reason, Error) else reason.reason
    error = {"code": reason.code, "message": f"{message}: {detail}" if detail else message}
    return msgspec.json.encode({"error": error})


def install(application: FastAPI, metrics: Metrics) -> None:
    """Answer refused WebSocket parameters in this way."""

    async def refuse_parameters(websocket: WebSocket, error: Any) -> None:
        """422 before the upgrade, naming each parameter that does not fit; values are not repeated."""
        problems = [{"parameter": str(problem["loc"][-1]), "message": problem["msg"]} for problem in error.errors()]
        names = ", ".join(problem["parameter"] for problem in problems)
        metrics.refuse("parameters", path=websocket.scope["path"], remedy=f"correct {names} in the path or the query")
        response = JSONResponse({"detail": problems}, status.HTTP_422_UNPROCESSABLE_CONTENT)
        await websocket.send_denial_response(response)

    application.add_exception_handler(WebSocketRequestValidationError, refuse_parameters)
