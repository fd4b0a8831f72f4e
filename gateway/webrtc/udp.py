"""UDP ports that all peers share: a datagram finds its peer by what it says, so a firewall opens few ports, not many.

An authenticated ICE check names the peer it is for, and binds the address it came from to that peer; an answer to a
check of ours is known by its transaction; everything else (DTLS, SRTP) is the peer's to which its address is bound.
Datagrams that belong to nobody are dropped and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
import sys
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from aioice import stun
from aioice.ice import StunProtocol, get_host_addresses

from pipeline.errors import AsrgateError

if TYPE_CHECKING:
    from aioice import Connection

    from gateway.config import WebRtcConfig

_log = logging.getLogger(__name__)

Address = tuple[str, int]

_LONGEST_BYTES = 2048
_AT_ONCE = 64  # datagrams read from a socket before others get their turn
_BUFFER_BYTES = 4 << 20
_SPREAD = 8 if sys.platform == "linux" else 1  # elsewhere one of the sockets would get everything
_LANE_ADDRESSES = 16
_ASKED = 4096


class NoMediaPort(AsrgateError):
    """No UDP port could be opened for media."""

    code = "no_media_port"
    retryable = True


class Lane(asyncio.DatagramTransport):
    """A shared socket as one peer sees it: its own, to send on; what comes in goes to `connection`.

    Args:
        shared: The socket.
        connection: The peer's ICE agent.
    """

    def __init__(self, shared: SharedSocket, connection: Connection) -> None:
        super().__init__()
        self.connection = connection
        self.password = connection.local_password.encode()
        self.protocol = StunProtocol(connection)
        self.addresses: OrderedDict[Address, None] = OrderedDict()
        self._shared = shared
        self.protocol.connection_made(self)
        shared.join(connection.local_username, self)

    def sendto(self, data: Any, addr: Any = None) -> None:
        """Send now or never: a full buffer loses the datagram as the network may."""
        self._shared.send(data, addr, self)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the socket's address for `sockname`."""
        return (self._shared.host, self._shared.port) if name == "sockname" else default

    def is_closing(self) -> bool:
        """Return False: nobody asks after the end."""
        return False

    def close(self) -> None:
        """Leave the socket to the others."""
        self._shared.leave(self.connection.local_username, self)
        self.protocol.connection_lost(None)


class SharedSocket:
    """One UDP port, as several sockets where the kernel spreads senders over them.

    A socket's buffer is short of a tenth of a second of a hundred streams, and few systems let it grow; so many of
    them bridge a busy moment of the event loop.

    Args:
        host: Local address.
        port: Local port; 0 takes a free one.

    Raises:
        OSError: It cannot be bound.
    """

    def __init__(self, host: str, port: int) -> None:
        # Sockets that share a port do not notice when another program has it, so one that does not share asks first.
        with _bound(host, port, shared=False) as probe:
            self.port: int = probe.getsockname()[1]
        self.host = host
        self.dropped = 0
        self._sockets = [_bound(host, self.port, shared=_SPREAD > 1) for _ in range(_SPREAD)]
        self._by_name: dict[str, Lane] = {}
        self._by_address: dict[Address, Lane] = {}
        self._asked: OrderedDict[bytes, Lane] = OrderedDict()
        for each in self._sockets:
            asyncio.get_running_loop().add_reader(each.fileno(), self._read, each)

    def close(self) -> None:
        """Stop; lanes are left by their peers."""
        for each in self._sockets:
            asyncio.get_running_loop().remove_reader(each.fileno())
            each.close()

    def join(self, name: str, lane: Lane) -> None:
        """Bring checks for this ICE user name to a lane."""
        self._by_name[name] = lane

    def leave(self, name: str, lane: Lane) -> None:
        """Forget a lane."""
        self._by_name.pop(name, None)
        for address in lane.addresses:
            self._by_address.pop(address, None)
        for transaction in [key for key, asker in self._asked.items() if asker is lane]:
            del self._asked[transaction]

    def send(self, data: bytes, address: Address, lane: Lane) -> None:
        """Send a datagram of a lane."""
        if data[0] < 2 and not data[0] & 1 and not data[1] & 0x10 and len(data) >= 20:  # a STUN request
            self._asked[bytes(data[8:20])] = lane
            if len(self._asked) > _ASKED:
                self._asked.popitem(last=False)
        with contextlib.suppress(OSError):  # no way there, or no room: the network loses datagrams, too
            self._sockets[0].sendto(data, address)

    def _read(self, source: socket.socket) -> None:
        receive = source.recvfrom
        for _ in range(_AT_ONCE):
            try:
                data, address = receive(_LONGEST_BYTES)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error for something sent earlier
            if data:
                self._deliver(data, address[:2])

    def _deliver(self, data: bytes, address: Address) -> None:
        if data[0] < 4:
            self._check(data, address)
        elif (lane := self._by_address.get(address)) is not None:
            lane.connection.data_received(data, 1)
        else:
            self.dropped += 1

    def _check(self, data: bytes, address: Address) -> None:
        try:
            message = stun.parse_message(data)
        except ValueError:
            self.dropped += 1
            return
        if message.message_class is stun.Class.REQUEST:
            name = str(message.attributes.get("USERNAME", "")).partition(":")[0]
            if (lane := self._by_name.get(name)) is None:
                self.dropped += 1
                return
            if message.check_message_integrity(lane.password):
                self._bind(address, lane)
            lane.connection.request_received(message, address, lane.protocol)
        elif (lane := self._asked.pop(message.transaction_id, None)) is not None:
            transaction = lane.protocol.transactions.get(message.transaction_id)
            if transaction is not None:
                transaction.response_received(message, address)

    def _bind(self, address: Address, lane: Lane) -> None:
        before = self._by_address.get(address)
        if before is lane:
            return
        if before is not None:
            del before.addresses[address]
        self._by_address[address] = lane
        lane.addresses[address] = None
        if len(lane.addresses) > _LANE_ADDRESSES:
            oldest, _ = lane.addresses.popitem(last=False)
            del self._by_address[oldest]


def _bound(host: str, port: int, *, shared: bool) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        bound.setblocking(False)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


class MediaPorts:
    """The shared sockets of a gateway: one per local address and configured port, opened when a peer first needs it.

    Args:
        config: Where to listen.
    """

    def __init__(self, config: WebRtcConfig) -> None:
        self._config = config
        self._turn = itertools.count()
        self._sockets: dict[tuple[str, int], SharedSocket] = {}
        self._refused: set[tuple[str, int]] = set()

    @property
    def dropped(self) -> int:
        """Datagrams that belonged to nobody."""
        return sum(shared.dropped for shared in self._sockets.values())

    def take(self) -> list[SharedSocket]:
        """Return the sockets of the next peer, one per local address; peers take turns at the ports.

        Raises:
            NoMediaPort: None could be opened.
        """
        ports = self._config.ports
        port = ports[next(self._turn) % len(ports)]
        hosts = self._config.addresses or get_host_addresses(use_ipv4=True, use_ipv6=True)
        sockets = [shared for host in hosts if (shared := self._open(host, port)) is not None]
        if not sockets:
            where = ", ".join(hosts) or "no address but loopback"
            raise NoMediaPort(
                f"UDP port {port or 'any'} cannot be opened on {where}; see webrtc.udp_ports and addresses"
            )
        return sockets

    def close(self) -> None:
        """Close every socket."""
        for shared in self._sockets.values():
            shared.close()
        self._sockets.clear()

    def _open(self, host: str, port: int) -> SharedSocket | None:
        place = host, port
        if place not in self._sockets:
            try:
                self._sockets[place] = SharedSocket(host, port)
            except OSError as error:
                if place not in self._refused:
                    self._refused.add(place)
                    _log.warning("UDP %s port %s: %s", host, port or "any", error.strerror)
                return None
        return self._sockets[place]
