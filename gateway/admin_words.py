"""`/admin/v1/words`: phrases that every stream hears, and the n-gram, for operators and their programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Body, Query, Request
from pydantic import BaseModel, Field

from gateway.operators import check_type
from gateway.upload import receive

if TYPE_CHECKING:
    from fastapi import APIRouter

    from gateway.words import ServedWords

Who = Annotated[str, Query(min_length=1, max_length=100)]
Why = Annotated[str, Query(max_length=1000)]
After = Annotated[int | None, Query(ge=0, description="Refuse if anything was changed after this `seq`.")]


class PhraseList(BaseModel):
    """The phrases that are to be served."""

    phrases: list[str] = Field(description="Lines such as `new york`, `nguyen:2 = win` or `# nothing`.")
    after: int | None = Field(None, ge=0, description="Refuse if anything was changed after this `seq`.")
    who: str = Field("operator", min_length=1, max_length=100)
    why: str = Field("", max_length=1000)


def add_routes(routes: APIRouter, served: ServedWords) -> None:
    """Add the routes to those of the operators."""

    @routes.get("/words")
    async def words() -> dict[str, Any]:
        """List the phrases that every stream hears, and say which n-gram is served and what the model cannot use."""
        return await served.show()

    @routes.get("/words/events")
    async def events() -> list[dict[str, Any]]:
        """List what was done, oldest first: who, when, why, and what held from then on."""
        return await served.history()

    @routes.put("/words")
    async def put(request: Request, wanted: Annotated[PhraseList, Body()]) -> dict[str, Any]:
        """Serve these phrases, and no others, from the next utterance on."""
        check_type(request, "application/json")
        return await served.replace(wanted.phrases, wanted.after, wanted.who, wanted.why)

    @routes.put("/words/ngram")
    async def put_ngram(request: Request, after: After = None, who: Who = "operator", why: Why = "") -> dict[str, Any]:
        """Serve an n-gram (`application/octet-stream`) in place of the model's own from the next utterance on."""
        check_type(request, "application/octet-stream")
        digest, _ = await receive(request, served.incoming(), ".npz")
        return await served.replace_ngram(digest, after, who, why)

    @routes.delete("/words/ngram")
    async def delete_ngram(after: After = None, who: Who = "operator", why: Why = "") -> dict[str, Any]:
        """Serve the model's own n-gram again."""
        return await served.replace_ngram("", after, who, why)
