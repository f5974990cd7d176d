"""`GET /livez`, `/startupz`, `/readyz`: this worker's own view of itself."""

from fastapi import APIRouter, status
from fastapi.responses import JSONResponse

from starling.web.dependencies import WebContextDependency

router = APIRouter(tags=["health"])


@router.get("/livez", summary="Is this worker's event loop alive?")
async def livez() -> dict[str, bool]:
    """An answer is the proof."""
    return {"alive": True}


@router.get("/startupz", summary="Has this worker started?", responses={503: {"description": "Still starting."}})
async def startupz(web_context: WebContextDependency) -> JSONResponse:
    """200 once the configuration stands and the first contact with the broker was tried."""
    return _answer(web_context, good=web_context.engine.readiness.started)


@router.get("/readyz", summary="Does this worker want new clients?", responses={503: {"description": "Not now."}})
async def readyz(web_context: WebContextDependency) -> JSONResponse:
    """200 while nothing speaks against new clients; the body names the reasons and the broker's state."""
    return _answer(web_context, good=web_context.engine.readiness.ready)


def _answer(web_context: WebContextDependency, *, good: bool) -> JSONResponse:
    code = status.HTTP_200_OK if good else status.HTTP_503_SERVICE_UNAVAILABLE
    return JSONResponse(web_context.engine.readiness.report(), code)
