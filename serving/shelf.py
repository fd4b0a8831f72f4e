"""The models in memory, by name and revision, and which of them a choice means. Pure.

Each name has a double buffer. Further revisions stand beside it for streams that chose them by number. When memory is
needed, what was used least recently leaves first; what serves by default, is on its way in, holds a lease, or is
needed by a stream never does.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator

from hotswap.buffer import Buffer
from serving.errors import NoRoom, UnknownModel
from serving.menu import Dish, Menu, meant
from serving.resident import Resident


class Shelf:
    """What is resident.

    Args:
        default: The model that streams get that choose none.

    Attributes:
        trials: Share of streams, in percent, that get the standby of a name.
    """

    def __init__(self, default: Resident) -> None:
        self.trials: dict[str, float] = {}
        self._default = default.info.name
        self._buffers = {self._default: Buffer(default)}
        self._others: dict[str, Resident] = {}
        self._used: dict[str, int] = {}
        self._ticks = itertools.count(1)

    @property
    def default(self) -> Resident:
        """The model that serves by default."""
        return self._buffers[self._default].active

    def buffer(self, name: str) -> Buffer[Resident]:
        """Return the double buffer of a name.

        Raises:
            UnknownModel: No model of this name is here.
        """
        if name not in self._buffers:
            known = " or ".join(map(repr, self._buffers))
            msg = f"model {name!r} is not served here; ask for {known} or leave it out"
            raise UnknownModel(msg)
        return self._buffers[name]

    def choose(self, choice: str, stream: str) -> Resident:
        """Return what the next lease of a stream gets; see `ModelInfo` for what may be chosen.

        Raises:
            UnknownModel: The choice names nothing here.
        """
        name, _, at = choice.partition("@")
        buffer = self.buffer(name or self._default)
        chosen = self._pick(buffer, at, stream)
        if chosen is None:
            have = [_reference(resident) for _, resident in self.roles()]
            msg = f"model {choice!r} is not loaded here; there are {', '.join(have)}"
            raise UnknownModel(msg)
        self._used[_reference(chosen)] = next(self._ticks)
        return chosen

    def menu(self) -> Menu:
        """Describe what `choose` chooses from."""
        dishes = {}
        for name, buffer in self._buffers.items():
            beside = [resident.info for resident in self._others.values() if resident.info.name == name]
            others = [buffer.previous.info, *beside] if buffer.previous is not None else beside
            standby = buffer.standby.info if buffer.standby is not None else None
            dishes[name] = Dish(buffer.active.info, standby, self.trials.get(name, 0.0), tuple(others))
        return Menu(self._default, dishes)

    def put(self, resident: Resident) -> None:
        """Take in a model that streams choose; the first of its name serves under that name."""
        name = resident.info.name
        if name in self._buffers:
            self._others[_reference(resident)] = resident
        else:
            self._buffers[name] = Buffer(resident)
        self._used[_reference(resident)] = next(self._ticks)

    def roles(self) -> Iterator[tuple[str, Resident]]:
        """Yield every model with its role: active, standby, previous or chosen."""
        for buffer in self._buffers.values():
            yield "active", buffer.active
            if buffer.standby is not None:
                yield "standby", buffer.standby
            if buffer.previous is not None:
                yield "previous", buffer.previous
        yield from (("chosen", resident) for resident in self._others.values())

    def make_room(
        self, needed_mb: float, budget_mb: float, busy: Collection[Resident], needed: Collection[str]
    ) -> list[Resident]:
        """Let models go until another one fits.

        Args:
            needed_mb: What it takes.
            budget_mb: What all together may take.
            busy: Models with leases.
            needed: References such as `name@7` that streams rely on.

        Returns:
            What left, to be retired.

        Raises:
            NoRoom: Everything that is left is needed; nothing left.
        """
        engines = {resident.engine for resident in busy}
        idle = [
            (role, resident)
            for role, resident in self.roles()
            if resident.engine not in engines and _reference(resident) not in needed and self._may_leave(role, resident)
        ]
        idle.sort(key=lambda item: self._used.get(_reference(item[1]), 0))
        excess_mb = sum(resident.memory_mb for _, resident in self.roles()) + needed_mb - budget_mb
        leaving = []
        while excess_mb > 0 and idle:
            leaving.append(idle.pop(0)[1])
            excess_mb -= leaving[-1].memory_mb
        if excess_mb > 0:
            msg = f"a model of {needed_mb:.0f} MB does not fit: those in use take all of {budget_mb:.0f} MB; try later"
            raise NoRoom(msg)
        for resident in leaving:
            self._remove(resident)
        return leaving

    def _may_leave(self, role: str, resident: Resident) -> bool:
        other_name = role == "active" and resident.info.name != self._default
        return role in ("previous", "chosen") or (other_name and self._buffers[resident.info.name].standby is None)

    def _remove(self, resident: Resident) -> None:
        reference, name = _reference(resident), resident.info.name
        self._used.pop(reference, None)
        if self._others.pop(reference, None) is None:
            if self._buffers[name].previous is resident:
                self._buffers[name].forget()
            else:
                del self._buffers[name]

    def _pick(self, buffer: Buffer[Resident], at: str, stream: str) -> Resident | None:
        name, standby = buffer.active.info.name, buffer.standby
        others = [resident for resident in self._others.values() if resident.info.name == name]
        here = [r for r in (buffer.active, standby, buffer.previous, *others) if r is not None]
        revision = meant(
            name,
            at,
            stream,
            active=buffer.active.info.revision,
            standby=standby.info.revision if standby is not None else None,
            percent=self.trials.get(name, 0.0),
            others=[resident.info.revision for resident in here],
        )
        return next((resident for resident in here if resident.info.revision == revision), None)


def _reference(resident: Resident) -> str:
    return f"{resident.info.name}@{resident.info.revision}"
