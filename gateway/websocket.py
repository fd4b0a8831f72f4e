"""`/v1/stream`: moves messages between a WebSocket and a session, and translates nothing itself."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from fastapi.responses import JSONResponse
from starlette.websockets import WebSocketDisconnect

from gateway.errors import AtCapacity, ProtocolError
from gateway.messages import Closed, ServerMessage, SessionError
from gateway.protocols import native
from pipeline.errors import AsrgateError, BadHotword

if TYPE_CHECKING:
    from fastapi import WebSocket

    from gateway.session import Session
    from gateway.sessions import Sessions

NORMAL, GOING_AWAY, NOT_AUDIO, REFUSED, FAULT = 1000, 1001, 1007, 1008, 1011
_CLOSE_CODES = {"client": NORMAL, "shutdown": GOING_AWAY, "bad_audio": NOT_AUDIO, "internal": FAULT}

# Messages that wait are received and sent without a pause in between: after so many, others get their turn.
_TURN_MESSAGES = 32


async def stream(websocket: WebSocket, sessions: Sessions, send_timeout_s: float) -> None:
    """Serve one connection from handshake to close."""
    try:
        options = native.parse_query(websocket.url.query)
        await sessions.make_ready(options)
        session = sessions.admit(options)
    except AtCapacity as error:
        await _deny(websocket, error)
        return
    except AsrgateError as error:
        sessions.metrics.error(error.code)
        await _refuse(websocket, error)
        return
    seat = session.attach(options.seen)
    for_good = False
    try:
        await websocket.accept()
        for_good = await _converse(websocket, session, seat, send_timeout_s)
    except (WebSocketDisconnect, TimeoutError):
        pass
    finally:
        sessions.left(session, seat, for_good=for_good)


async def _deny(websocket: WebSocket, error: AtCapacity) -> None:
    body = {"code": error.code, "message": str(error), "retryable": error.retryable}
    headers = {"Retry-After": str(error.retry_after_s), "Cache-Control": "no-store"}
    await websocket.send_denial_response(JSONResponse(body, 503, headers))


async def _refuse(websocket: WebSocket, error: AsrgateError) -> None:
    """Open the connection to say what is wrong: of a refused handshake a browser tells its page nothing."""
    with contextlib.suppress(WebSocketDisconnect):
        await websocket.accept()
        await _send(websocket, SessionError(error.code, str(error), error.retryable))
        await _close(websocket, REFUSED, error.code)


async def _converse(websocket: WebSocket, session: Session, seat: int, send_timeout_s: float) -> bool:
    """Talk both ways until either side is done; return whether nobody will come back."""
    listener = asyncio.create_task(_listen(websocket, session, seat))
    teller = asyncio.create_task(_tell(websocket, session, seat, send_timeout_s))
    try:
        await asyncio.wait({listener, teller}, return_when=asyncio.FIRST_COMPLETED)
        return teller.result() if teller.done() else listener.result()
    finally:
        listener.cancel()
        teller.cancel()
        await asyncio.gather(listener, teller, return_exceptions=True)


async def _listen(websocket: WebSocket, session: Session, seat: int) -> bool:
    """Hand over what the client sends; return whether it said goodbye."""
    received = 0
    while True:
        received += 1
        if received % _TURN_MESSAGES == 0:
            await asyncio.sleep(0)
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return bool(message.get("code") == NORMAL)
        if seat != session.seat:
            return False
        now = time.monotonic()
        if (payload := message.get("bytes")) is not None:
            await session.audio(payload, now)
        else:
            obey(session, message["text"], now)
            await session.has_room()


def obey(session: Session, text: str, now: float) -> None:
    """Do what a text message asks for, or tell the client why not."""
    try:
        match native.parse_message(text):
            case native.Finalize():
                session.finalize(now)
            case native.Favour(hotwords):
                session.favour(hotwords)
            case native.Close():
                session.close(now)
    except (ProtocolError, BadHotword) as error:
        session.complain(error)


async def _tell(websocket: WebSocket, session: Session, seat: int, send_timeout_s: float) -> bool:
    """Send what the session says; return whether that was the end of it, not just of this connection."""
    sent = 0
    async for message in session.messages(seat):
        sent += 1
        async with asyncio.timeout(send_timeout_s):
            await _send(websocket, message)
            if sent % _TURN_MESSAGES == 0:
                await asyncio.sleep(0)
        if isinstance(message, Closed):
            await _close(websocket, _CLOSE_CODES.get(message.reason, REFUSED), message.reason)
            return True
    await _close(websocket, REFUSED, "resumed on another connection")
    return False


async def _send(websocket: WebSocket, message: ServerMessage) -> None:
    try:
        await websocket.send_text(native.render(message))
    except RuntimeError as error:
        # The server has closed the connection itself (oversized message, no pong) and `receive` is yet to say so.
        raise WebSocketDisconnect from error


async def _close(websocket: WebSocket, code: int, reason: str) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        await websocket.close(code, reason)
