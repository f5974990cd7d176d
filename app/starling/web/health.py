"""`GET /livez`, `/startupz`, `/readyz`: this worker's own view of itself."""

from fastapi import APIRouter, status
from fastapi.responses import JSONResponse

from starling.engine.readiness import Readiness


def build_router(readiness: Readiness) -> APIRouter:
    """Build the probes of a worker."""
    router = APIRouter(tags=["health"])

    @router.get("/livez", summary="Is this worker's event loop alive?")
    async def livez() -> dict[str, bool]:
        """An answer is the proof."""
        return {"alive": True}

    @router.get("/startupz", summary="Has this worker started?", responses={503: {"description": "Still starting."}})
    async def startupz() -> JSONResponse:
        """200 once the configuration stands and the first contact with the broker was tried."""
        return _answer(readiness, good=readiness.started)

    @router.get("/readyz", summary="Does this worker want new clients?", responses={503: {"description": "Not now."}})
    async def readyz() -> JSONResponse:
        """200 while nothing speaks against new clients; the body names the reasons and the broker's state."""
        return _answer(readiness, good=readiness.ready)

    return router


def _answer(readiness: Readiness, *, good: bool) -> JSONResponse:
    code = status.HTTP_200_OK if good else status.HTTP_503_SERVICE_UNAVAILABLE
    return JSONResponse(readiness.describe(), code)
