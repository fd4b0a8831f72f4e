"""Steps of several streams side by side: what they ask of one network, it answers in one go."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, TypeVar

from pipeline.neuralvad import NeuralVad, judge_together

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.vad import Ask, Step

T = TypeVar("T")
Answer = list[bool] | Exception


def side_by_side(steps: Sequence[Step[T]]) -> list[T | Exception]:
    """Run steps, no two of one stream, to their ends.

    Returns:
        What each returned or raised, in their order; one that fails does not touch the others.
    """
    results: dict[int, T | Exception] = {}
    answers: dict[int, Answer | None] = dict.fromkeys(range(len(steps)))
    while answers:
        asks: dict[int, Ask] = {}
        for number, answer in answers.items():
            try:
                asks[number] = _go_on(steps[number], answer)
            except StopIteration as done:
                results[number] = done.value
            except Exception as error:
                results[number] = error
        answers = {**_answers(asks)}
    return [results[number] for number in range(len(steps))]


def _go_on(step: Step[T], answer: Answer | None) -> Ask:
    if answer is None:
        return next(step)
    return step.throw(answer) if isinstance(answer, Exception) else step.send(answer)


def _answers(asks: Mapping[int, Ask]) -> dict[int, Answer]:
    alike: defaultdict[object, list[int]] = defaultdict(list)
    for number, (model, _) in asks.items():
        alike[model.network if isinstance(model, NeuralVad) else number].append(number)
    answers: dict[int, Answer] = {}
    for numbers in alike.values():
        try:
            verdicts = _judge([asks[number] for number in numbers])
        except Exception as error:
            answers |= dict.fromkeys(numbers, error)
        else:
            answers |= zip(numbers, verdicts, strict=True)
    return answers


def _judge(asks: Sequence[Ask]) -> list[list[bool]]:
    neural = [ask.model for ask in asks if isinstance(ask.model, NeuralVad)]
    if neural:
        return judge_together(neural, [ask.frames for ask in asks])
    return [ask.model.judge(ask.frames) for ask in asks]
