"""Train the letter-to-phone network on a pronouncing dictionary."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn.functional import ctc_loss, log_softmax

from pipeline.letters import ALPHABET, SLOTS, Letters, Phones

_EMBEDDING, _HIDDEN, _INNER, _OUTER = 24, 160, 7, 5
_BATCH = 256
_RATE = 4e-3
_PAD = len(ALPHABET)


class _Network(nn.Module):
    def __init__(self, phones: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(ALPHABET) + 1, _EMBEDDING, padding_idx=_PAD)
        self.inner = nn.Conv1d(_EMBEDDING, _HIDDEN, _INNER, padding="same")
        self.outer = nn.Conv1d(_HIDDEN, _HIDDEN, _OUTER, padding="same")
        self.output = nn.Linear(_HIDDEN, SLOTS * (phones + 1))

    def forward(self, letters: torch.Tensor) -> torch.Tensor:
        inside = (letters != _PAD)[:, None]
        hidden = self.embedding(letters).transpose(1, 2)
        for layer in (self.inner, self.outer):
            hidden = torch.relu(layer(hidden)) * inside  # a word is surrounded by nothing, however it is batched
        scores = self.output(hidden.transpose(1, 2))
        return log_softmax(scores.reshape(len(letters), SLOTS * letters.shape[1], -1), -1)


def train_letters(
    dictionary: Mapping[str, tuple[Phones, ...]], phones: int, *, epochs: int, seed: int, step: Callable[[], None]
) -> Letters:
    """Train on the first pronunciation of each word.

    Args:
        dictionary: Pronunciations by word; words that are not spelled by `ALPHABET` are left out.
        phones: Number of phones.
        epochs: Passes over the dictionary.
        seed: Order and initial weights.
        step: Called after every pass.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)  # noqa: S311 - repeatable order, not secrets
    spoken = [
        ([ALPHABET.index(letter) for letter in word], variants[0])
        for word, variants in sorted(dictionary.items())
        if set(word) <= set(ALPHABET) and len(variants[0]) <= SLOTS * len(word)
    ]
    network = _Network(phones)
    optimiser = torch.optim.AdamW(network.parameters(), _RATE)
    batches = epochs * -(-len(spoken) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=batches)
    for _ in range(epochs):
        rng.shuffle(spoken)
        spoken.sort(key=lambda pair: len(pair[0]))
        groups = [spoken[at : at + _BATCH] for at in range(0, len(spoken), _BATCH)]
        for group in rng.sample(groups, len(groups)):
            letters = nn.utils.rnn.pad_sequence([torch.tensor(word) for word, _ in group], True, _PAD)
            loss = ctc_loss(
                network(letters).transpose(0, 1),
                torch.tensor([phone for _, sounds in group for phone in sounds]),
                torch.tensor([SLOTS * len(word) for word, _ in group]),
                torch.tensor([len(sounds) for _, sounds in group]),
                blank=phones,
                zero_infinity=True,
            )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        step()
    return _weights(network)


@torch.no_grad()
def _weights(network: _Network) -> Letters:
    state = {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}
    return Letters(
        embedding=state["embedding.weight"][:_PAD],
        inner=state["inner.weight"].transpose(2, 1, 0).copy(),
        inner_bias=state["inner.bias"],
        outer=state["outer.weight"].transpose(2, 1, 0).copy(),
        outer_bias=state["outer.bias"],
        output=state["output.weight"].T.copy(),
        output_bias=state["output.bias"],
    )
