"""Training: the loss falls, a resumed run does the same step, and workers share the work exactly."""

from __future__ import annotations

import copy
import multiprocessing
from pathlib import Path

import pytest
import torch

from models.training.checkpoint import Progress, load_weights
from models.training.config import RecipeConfig, RecipeError
from models.training.encoder import Encoder
from models.training.optimiser import Layout, Optimiser, SharedState, orthogonalise
from models.training.score import ErrorCount, collapse, edit_distance
from models.training.train import Plan, Reporter, Team, Worker, build, ctc_loss, learning_rate, smoothing, strength


def make_worker(config: RecipeConfig, plan: Plan, init: Path | None = None) -> Worker:
    model, state, progress = build(config, plan, init, None)
    context = multiprocessing.get_context("spawn")
    doubles = {"dtype": torch.float64}
    team = Team(
        state,
        torch.zeros(1, 4, **doubles),
        torch.zeros(1, 3, **doubles),
        torch.zeros(1, dtype=torch.int64),
        context.Barrier(1),
        context.Event(),
    )
    return Worker(config, plan, team, model=model, progress=progress, rank=0)


@pytest.fixture
def plan(folders: Path) -> Plan:
    assert folders.is_dir()
    return Plan("test", hours=None, decay_hours=None, workers=1, device="cpu")


def test_loss_falls_and_words_are_recognised(
    config: RecipeConfig, plan: Plan, folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worker = make_worker(config, plan)
    losses = [worker.step()[0][0, 0].item() for _ in range(40)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    reporter = Reporter(worker, worker.labeller.describe(config.model))
    reporter.evaluate(_Sink())
    assert (folders / "log/test.jsonl").read_text(encoding="utf-8").count("\n") == 1


def test_a_resumed_run_does_the_same_step(config: RecipeConfig, plan: Plan, folders: Path) -> None:
    worker = make_worker(config, plan)
    for _ in range(3):
        worker.step()
    Reporter(worker, worker.labeller.describe(config.model)).checkpoint()
    worker.step()
    resumed = make_worker(config, plan)
    assert resumed.progress.step == 3
    resumed.step()
    assert torch.equal(resumed.team.state.parameters, worker.team.state.parameters)
    assert torch.equal(resumed.team.state.average, worker.team.state.average)
    assert resumed.progress == worker.progress
    assert (folders / "checkpoints/test/latest.pt").is_file()


def test_weights_restart_a_lost_run(config: RecipeConfig, plan: Plan, folders: Path, tmp_path: Path) -> None:
    worker = make_worker(config, plan)
    worker.step()
    Reporter(worker, worker.labeller.describe(config.model)).checkpoint()
    kept = tmp_path / "kept.npz"
    (folders / "checkpoints/test/weights.npz").rename(kept)
    (folders / "checkpoints/test/latest.pt").unlink()
    restarted = make_worker(config, plan, init=kept)
    assert restarted.progress.step == 0
    torch.testing.assert_close(restarted.team.state.parameters, worker.team.state.average, rtol=1e-3, atol=1e-4)
    with pytest.raises(RecipeError, match="no weights"):
        load_weights(tmp_path / "absent.npz")


def test_two_workers_do_what_one_does() -> None:
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([torch.nn.Linear(6, 4), torch.nn.Linear(4, 8)])})
    layout = Layout(model)
    gradient = torch.randn(layout.size)
    single = SharedState.create(layout, layout.flatten(model), 1)
    double = copy.deepcopy(single)
    double.gradients, double.norms = torch.zeros(2, layout.size), torch.zeros(2, dtype=torch.float64)
    for step in range(1, 4):
        single.gradients[0] = gradient * step
        double.gradients[:] = torch.stack((gradient * step * 0.5, gradient * step * 1.5))
        alone = Optimiser(layout, single, 0, 1, 0.1)
        alone.reduce()
        norm = alone.step(1e-2, step, 1.0, 0.9)
        pair = [Optimiser(layout, double, worker, 2, 0.1) for worker in range(2)]
        for optimiser in pair:
            optimiser.reduce()
        assert [optimiser.step(1e-2, step, 1.0, 0.9) for optimiser in pair] == pytest.approx([norm, norm])
    torch.testing.assert_close(double.parameters, single.parameters)
    torch.testing.assert_close(double.average, single.average)


def test_a_broken_gradient_changes_nothing() -> None:
    model = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([torch.nn.Linear(3, 3)])})
    layout = Layout(model)
    state = SharedState.create(layout, layout.flatten(model), 1)
    before = state.parameters.clone()
    state.gradients[0, 2] = float("nan")
    optimiser = Optimiser(layout, state, 0, 1, 0.1)
    optimiser.reduce()
    assert optimiser.step(1.0, 1, 1.0, 0.5) != 0.0
    assert torch.equal(state.parameters, before)


@pytest.mark.parametrize("shape", [(8, 8), (8, 32), (48, 16)])
def test_orthogonalise(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    result = orthogonalise(matrix)
    singular = torch.linalg.svdvals(result)
    assert 0.3 < singular.min() <= singular.max() < 1.3
    assert torch.nn.functional.cosine_similarity(result.flatten(), (left @ right).flatten(), dim=0) > 0.97


def test_parameters_are_views(config: RecipeConfig) -> None:
    model = Encoder(config.model, 5, 3)
    layout = Layout(model)
    flat = layout.flatten(model)
    layout.attach(model, flat)
    flat.zero_()
    assert all(not parameter.any() for parameter in model.parameters())


def test_utterances_without_targets_do_not_count() -> None:
    torch.manual_seed(0)
    logits, frames = torch.randn(2, 9, 4), torch.tensor([9, 9])
    assert torch.equal(ctc_loss(logits, frames, [[1, 2], []]), ctc_loss(logits[:1], frames[:1], [[1, 2]]))
    assert ctc_loss(logits, frames, [[], []]) == 0.0


def test_schedules(config: RecipeConfig) -> None:
    train = config.train
    assert learning_rate(train, Progress(step=0), None) < learning_rate(train, Progress(step=99), None)
    decaying = Progress(step=99, audio_s=7200.0, decay_from_s=0.0)
    assert learning_rate(train, decaying, 2.0) == pytest.approx(train.learning_rate * train.final_rate)
    assert learning_rate(train, decaying, 4.0) == pytest.approx(train.learning_rate * (1 + train.final_rate) / 2)
    assert smoothing(train, 0) < smoothing(train, 1000) < smoothing(train, 10**6) == pytest.approx(train.ema_last)
    assert strength(config, 0.0) == config.augment.first_strength
    assert strength(config, 10**6) == 1.0


def test_scoring() -> None:
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "ab") == 2
    assert collapse([0, 0, 2, 0, 1, 1, 2], blank=2) == [0, 0, 1]
    count = ErrorCount()
    count.add(["a", "b"], ["a"])
    assert count.percent == 50.0


class _Sink:
    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass
