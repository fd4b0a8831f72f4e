"""The calls of one gateway: opening, finding and forgetting them, and the ports and the wheel they share."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

from gateway.webrtc.call import Call, State
from gateway.webrtc.peer import Peer
from gateway.webrtc.stats import MediaCollector
from gateway.webrtc.udp import MediaPorts
from gateway.webrtc.wheel import Wheel

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.journal import Journal
    from gateway.protocols.native import StreamOptions
    from gateway.sessions import Sessions
    from gateway.webrtc.sdp import Offer
    from pipeline.receiver import StreamStats

_CLOCK_HZ = {"opus": 48000, "mulaw": 8000, "alaw": 8000}
_WIDEBAND_HZ = 16000


class Calls:
    """The registry. Every method belongs to the event loop's thread.

    Args:
        config: All settings.
        sessions: Where calls are admitted.
    """

    def __init__(self, config: Config, sessions: Sessions) -> None:
        self._config = config
        self._sessions = sessions
        self._ports = MediaPorts(config.webrtc)
        self._wheel = Wheel()
        self._named: dict[str, Call] = {}
        self._journals: dict[str, Journal] = {}
        self._expiries: dict[str, asyncio.TimerHandle] = {}
        self._living: set[Call] = set()
        self._collector = MediaCollector(self._live, lambda: self._ports.dropped)
        sessions.metrics.watch(self._collector)

    async def open(self, offer: Offer, options: StreamOptions) -> tuple[str, str]:
        """Admit a client, and return the name of its call and the answer to its offer.

        Raises:
            AtCapacity: No room; the error says when to try again.
            BadParameter: What is asked for is not served.
            LibraryMissing: What is asked for needs what is not installed.
            NoMediaPort: No UDP port can be opened.
        """
        await self._sessions.make_ready(options)
        session = self._sessions.admit(options)
        try:
            peer = Peer(self._ports, self._config.webrtc, offer, _CLOCK_HZ[offer.encoding])
            answer = await peer.answer(wideband=session.input_rate_hz <= _WIDEBAND_HZ)
        except BaseException:
            self._sessions.left(session, session.attach(), for_good=True)
            raise
        name = secrets.token_urlsafe(24)
        call = Call(session, peer, offer, self._config, on_over=self._over, on_gone=self._living.discard)
        self._named[name] = call
        self._journals[name] = call.journal
        self._living.add(call)
        self._wheel.add(call)
        return name, answer

    def find(self, name: str) -> Call | None:
        """Return a call that has not ended."""
        return self._named.get(name)

    def journal(self, name: str) -> Journal | None:
        """Return what a call has said; known for a while after its end."""
        return self._journals.get(name)

    def leave(self, name: str) -> None:
        """End a call in order; it cannot be found any more."""
        self._named.pop(name).leave()

    async def aclose(self) -> None:
        """End every call now."""
        await asyncio.gather(*(call.aclose() for call in list(self._living)))
        for timer in self._expiries.values():
            timer.cancel()
        self._ports.close()

    def _live(self) -> list[StreamStats]:
        return [call.stats() for call in self._living if call.state in (State.LIVE, State.ENDING)]

    def _over(self, call: Call) -> None:
        self._sessions.left(call.session, call.seat, for_good=True)
        self._collector.ended(call.stats())
        loop, patience_s = asyncio.get_running_loop(), self._config.session.resume_s
        for name in [name for name, journal in self._journals.items() if journal is call.journal]:
            self._named.pop(name, None)
            self._expiries[name] = loop.call_later(patience_s, self._forget, name)

    def _forget(self, name: str) -> None:
        del self._journals[name], self._expiries[name]
