"""A gateway's questions to the steward of its cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from pipeline.errors import AsrgateError
from serving.errors import ClusterUnreachable, VersionSkew

_PIECE_BYTES = 8 * 2**20

Ask = Callable[..., Awaitable[Any]]
"""Carries a question to the steward; see `Steward.ask`."""


async def answer_to(carry: Ask, what: str, *arguments: Any) -> Any:
    """Return what the steward answers; raise what it refuses with.

    Raises:
        ClusterUnreachable: Nobody answers.
        VersionSkew: It does not understand.
        AsrgateError: It refuses.
    """
    try:
        answer = await carry(what, *arguments)
    except Exception as error:
        if getattr(error, "cause", error).args == (what,):
            why = f"the controller of the cluster does not know of {what!r}: an older asrgate has started it"
            raise VersionSkew(f"{why}; end it as docs/ray.md says, the next question starts a new one") from error
        why = f"the controller of the cluster does not answer ({type(error).__name__})"
        raise ClusterUnreachable(f"{why}; it is being started again, try again in seconds") from error
    if isinstance(answer, AsrgateError):
        raise answer
    return answer


async def send(carry: Ask, file: Path, has: tuple[str, ...], take: tuple[str, ...]) -> None:
    """Send a file that bears its digest as its name, unless it is there already.

    Args:
        carry: Carries questions.
        file: The file.
        has: Asks, with the digest behind it, whether it is there.
        take: Hands over, with the digest, a position, a piece and whether it is the last behind it.
    """
    if await answer_to(carry, *has, file.stem):
        return
    with file.open("rb") as stream:
        at, piece = 0, await asyncio.to_thread(stream.read, _PIECE_BYTES)
        while piece:
            after = await asyncio.to_thread(stream.read, _PIECE_BYTES)
            await answer_to(carry, *take, file.stem, at, piece, not after)
            at, piece = at + len(piece), after
