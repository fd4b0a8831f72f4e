"""`/v1/feedback`: was this right? What users say of a final counts for the model that decoded it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Body
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from hotswap.outcome import Outcome

if TYPE_CHECKING:
    from gateway.sessions import Sessions


class Verdict(BaseModel):
    """What a user says of a final."""

    session: str = Field(description="Public id of the session, from its `ready`.", max_length=64)
    utterance: int = Field(ge=0)
    right: bool


def router(sessions: Sessions) -> APIRouter:
    """Return the route."""
    routes = APIRouter()

    @routes.post("/v1/feedback", status_code=202, response_model=None)
    async def feedback(verdict: Annotated[Verdict, Body()]) -> JSONResponse:
        """Take a user's word on a final of an open session; the first word on each counts."""
        heard = sessions.judged(verdict.session, verdict.utterance)
        if heard is None:
            message = "no such final: the session is over, or it is too long ago, or somebody has judged it already"
            return JSONResponse({"code": "no_such_final", "message": message, "retryable": False}, 404)
        name, revision = heard
        sessions.trials.observe(Outcome(name, revision, right=verdict.right))
        return JSONResponse({"revision": revision}, 202)

    return routes
