from __future__ import annotations

import itertools
from datetime import UTC, datetime

import pytest

from hotswap.errors import SwapRefused
from hotswap.swap import OVER, TABLE, Event, Stage, Step, Swaps, advance

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
WAY = [
    Step.REGISTER,
    Step.VERIFY,
    Step.STAGE,
    Step.WARM,
    Step.PROBE,
    Step.SHADOW,
    Step.CANARY,
    Step.CANARY,
    Step.COMMIT,
]


def course(*steps: Step, swap: int = 1, first: int = 1, **facts: object) -> list[Event]:
    known = {"name": "m", "revision": 2, "percent": 5.0, **facts}
    return [Event(first + n, NOW, swap, "ann", step, facts=known) for n, step in enumerate(steps)]


def test_the_whole_way() -> None:
    swaps = Swaps(course(*WAY, Step.ACTIVATE, epoch=3))
    (swap,) = swaps.all()
    assert (swap.stage, swap.name, swap.revision, swaps.epoch) == (Stage.ACTIVE, "m", 2, 3)
    assert swaps.active("m") == swap
    assert swaps.active("other") is None
    assert not swaps.under_way()


def test_every_pair_is_either_in_the_table_or_refused() -> None:
    for stage, step in itertools.product(Stage, Step):
        began = advance(None, course(Step.REGISTER)[0])
        object.__setattr__(began, "stage", stage)
        if (stage, step) in TABLE:
            assert advance(began, course(step)[0]).stage is TABLE[stage, step]
        else:
            with pytest.raises(SwapRefused, match=step.value):
                advance(began, course(step)[0])


def test_nothing_leaves_an_end_and_only_a_commit_leads_to_serving() -> None:
    assert not [pair for pair in TABLE if pair[0] in OVER]
    assert [pair for pair, after in TABLE.items() if after is Stage.ACTIVE] == [(Stage.COMMITTING, Step.ACTIVATE)]
    before_active = set(Stage) - OVER - {Stage.ACTIVE}
    assert {stage for stage, step in TABLE if step is Step.REJECT} == before_active


def test_what_was_never_registered_goes_nowhere() -> None:
    with pytest.raises(SwapRefused, match="never registered"):
        Swaps(course(Step.VERIFY))


@pytest.mark.parametrize(("undoes", "stage"), [(None, Stage.RETIRED), (1, Stage.ROLLED_BACK)])
def test_the_next_one_retires_the_one_before_or_rolls_it_back(undoes: int | None, stage: Stage) -> None:
    swaps = Swaps(course(*WAY, Step.ACTIVATE))
    facts = {} if undoes is None else {"undoes": undoes}
    for event in course(Step.REGISTER, Step.VERIFY, Step.COMMIT, Step.ACTIVATE, swap=20, first=20, **facts):
        swaps.take(event)
    assert [swap.stage for swap in swaps.all()] == [Stage.ACTIVE, stage]
    active = swaps.active("m")
    assert active is not None
    assert active.number == 20


def test_a_title_says_what_and_how_far() -> None:
    events = course(*WAY[:7])
    assert Swaps(events).all()[0].title == "swap 1 (m@2, CANARY 5 %, by ann)"
    (fresh,) = Swaps([Event(1, NOW, 1, "ann", Step.REGISTER, facts={"source": "a.smmod"})]).all()
    assert fresh.title == "swap 1 (a.smmod, REGISTERED, by ann)"
