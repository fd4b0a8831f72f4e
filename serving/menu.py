"""Which model a choice means: one rule, for the shelf that holds the models and for gateways that look at it from afar.

See `serving.client.ModelInfo` for what may be chosen. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from hotswap.rollout import place
from serving.client import ModelInfo
from serving.errors import UnknownModel

CANARY = "canary"


def meant(
    name: str, at: str, stream: str, *, active: int, standby: int | None, percent: float, others: Collection[int] = ()
) -> int | None:
    """Return the revision of a model that a choice means, None where it means none that is there.

    Args:
        name: Of the model.
        at: What follows the name in the choice: a revision, `canary` or nothing.
        stream: Name of the stream that asks.
        active: Revision that serves.
        standby: Revision that may take its place.
        percent: Share of streams that are on trial with it.
        others: Further revisions in memory.
    """
    if not at:
        on_trial = standby is not None and percent and stream and place(name, standby, stream) < percent
        return standby if on_trial else active
    if at == CANARY:
        return active if standby is None else standby
    return int(at) if at.isdecimal() and int(at) in {active, standby, *others} else None


@dataclass(frozen=True, slots=True)
class Dish:
    """The revisions of one model.

    Attributes:
        active: What serves.
        standby: What may take its place.
        percent: Share of streams that are on trial with it.
        others: What streams may choose by number beside them.
    """

    active: ModelInfo
    standby: ModelInfo | None = None
    percent: float = 0.0
    others: tuple[ModelInfo, ...] = ()

    def choose(self, at: str, stream: str) -> ModelInfo | None:
        """Return what a choice means; see `meant`."""
        here = [self.active, *([self.standby] if self.standby else []), *self.others]
        revision = meant(
            self.active.name,
            at,
            stream,
            active=self.active.revision,
            standby=self.standby.revision if self.standby else None,
            percent=self.percent,
            others=[model.revision for model in self.others],
        )
        return next((model for model in here if model.revision == revision), None)


@dataclass(frozen=True, slots=True)
class Menu:
    """The models of one place.

    Attributes:
        default: Name of the model that streams get that choose none.
        dishes: Revisions by name.
        number: Grows with every change.
        words: Number of the vocabulary that the default model is heard with; see `serving.teacher`.
    """

    default: str
    dishes: Mapping[str, Dish]
    number: int = 0
    words: int = 0

    @property
    def model(self) -> ModelInfo:
        """The default model, outside a canary."""
        return self.dishes[self.default].active

    def find(self, choice: str, stream: str) -> ModelInfo | None:
        """Return what the next lease of a stream gets, None where the choice names nothing here."""
        name, _, at = choice.partition("@")
        dish = self.dishes.get(name or self.default)
        return None if dish is None else dish.choose(at, stream)

    def choose(self, choice: str, stream: str) -> ModelInfo:
        """Return what the next lease of a stream gets.

        Raises:
            UnknownModel: The choice names nothing here.
        """
        model = self.find(choice, stream)
        if model is None:
            raise UnknownModel(f"model {choice!r} is not loaded here; there are {', '.join(self.references())}")
        return model

    def references(self) -> list[str]:
        """Name every model."""
        return [
            f"{model.name}@{model.revision}"
            for dish in self.dishes.values()
            for model in (dish.active, dish.standby, *dish.others)
            if model is not None
        ]
