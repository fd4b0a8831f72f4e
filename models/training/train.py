"""Train the acoustic model: as many worker processes as asked for, one thread each, on shared parameters.

Usage: python -m models.training.train [--run NAME] [--hours H] [--decay-hours H] [--from-run NAME] [--init FILE]

The run resumes from its checkpoint by itself. The learning rate warms up and stays constant; `--decay-hours` anneals it
from the checkpoint at hand (usually into another run: `--run final --from-run main --decay-hours 60`) and then ends.
SIGTERM or Ctrl-C ends a run after the current step, with a checkpoint. Everything is counted in audio hours consumed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import signal
import sys
import time
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from typing import TextIO

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from models.training.checkpoint import Progress, load_checkpoint, load_weights, save_checkpoint
from models.training.config import CONFIG_FILE, RecipeConfig, TrainConfig, load_config, shared_dir, work_dir
from models.training.corpus import PHONES, Corpus
from models.training.crf import PhoneTrigram, log_partition
from models.training.data import (
    Batch,
    BatchMaker,
    BatchStream,
    Cursor,
    Labeller,
    Sampler,
    feature_statistics,
    open_augmenter,
    phone_sentences,
)
from models.training.encoder import PHONES_PER_FRAME, Description, Encoder, Logits
from models.training.optimiser import Layout, Optimiser, SharedState
from models.training.score import choose_clips, evaluate

_LOG_EVERY_STEPS = 25
_LOSS_NAMES = ("pieces", "phones", "middle")


@dataclass(frozen=True)
class Plan:
    """What the command line asked for.

    Attributes:
        run: Name of the run; its files lie in `checkpoints/<run>`.
        hours: End of the constant phase in audio hours, or None for no end.
        decay_hours: Length of the decay phase, or None for the constant phase.
        workers: Processes.
        device: "cpu", or "cuda" with one worker.
    """

    run: str
    hours: float | None
    decay_hours: float | None
    workers: int
    device: str

    @property
    def folder(self) -> Path:
        """Folder of the run's files."""
        return work_dir() / "checkpoints" / self.run


@dataclass
class Team:
    """What ties worker processes together.

    Attributes:
        state: Shared parameters and optimiser state.
        losses: float64[workers, 4]: the three losses and the audio seconds of a worker's last batch.
        cursors: float64[workers, 3]: fields of each worker's cursor.
        command: int64[1]: 1 once every worker is to stop after this step.
        barrier: Passed by all workers together.
        stop: Set by the parent when it is asked to end.
    """

    state: SharedState
    losses: Tensor
    cursors: Tensor
    command: Tensor
    barrier: Barrier
    stop: Event


def ctc_loss(logits: Tensor, frames: Tensor, targets: list[list[int]]) -> Tensor:
    """Return the CTC loss per target label; utterances without targets do not count.

    Args:
        logits: float32[B, T, C]; the blank is class C - 1.
        frames: int64[B], frames of each row that count.
        targets: Label ids of each row.
    """
    labelled = [row for row, labels in enumerate(targets) if labels]
    if not labelled:
        return logits.sum() * 0.0
    lengths = torch.tensor([len(targets[row]) for row in labelled])
    labels = torch.tensor([label for row in labelled for label in targets[row]], device=logits.device)
    log_probs = logits[labelled].log_softmax(-1).transpose(0, 1)
    blank = logits.shape[-1] - 1
    loss = F.ctc_loss(log_probs, labels, frames[labelled], lengths, blank=blank, reduction="sum", zero_infinity=True)
    return loss / lengths.sum()


def rivals(logits: Tensor, frames: Tensor, targets: list[list[int]], trigram: PhoneTrigram) -> Tensor:
    """Return log Z per target label, which the CRF loss adds to that of CTC; arguments as of `ctc_loss`."""
    labelled = [row for row, labels in enumerate(targets) if labels]
    if not labelled:
        return logits.sum() * 0.0
    total = log_partition(logits[labelled].log_softmax(-1), frames[labelled].to(logits.device), trigram).sum()
    return total / sum(len(labels) for labels in targets)


def batch_losses(logits: Logits, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Return the CTC losses of pieces, phones and middle phones."""
    frames = torch.from_numpy(batch.frames)
    return (
        ctc_loss(logits.pieces, frames, batch.pieces),
        ctc_loss(logits.phones, frames * PHONES_PER_FRAME, batch.phones),
        ctc_loss(logits.middle_phones, frames * PHONES_PER_FRAME, batch.phones),
    )


def learning_rate(config: TrainConfig, progress: Progress, decay_hours: float | None) -> float:
    """Return the learning rate of the next step."""
    rate = config.learning_rate * min(1.0, (progress.step + 1) / config.warmup_steps)
    if decay_hours is None or progress.decay_from_s is None:
        return rate
    done = min(1.0, (progress.audio_s - progress.decay_from_s) / (decay_hours * 3600))
    return rate * (1.0 - (1.0 - config.final_rate) * done)


def smoothing(config: TrainConfig, step: int) -> float:
    """Return the weight of the old moving average: short memory first, then from `ema_first` to `ema_last`."""
    ramp = min(1.0, step / config.ema_ramp_steps)
    return min(config.ema_first + (config.ema_last - config.ema_first) * ramp, (step + 1) / (step + 20))


def strength(config: RecipeConfig, hours: float) -> float:
    """Return the strength of augmentation after `hours` of audio."""
    first = config.augment.first_strength
    return first + (1.0 - first) * min(1.0, hours / config.augment.full_strength_hours)


class Worker:
    """One process's share of training."""

    def __init__(
        self, config: RecipeConfig, plan: Plan, team: Team, *, model: Encoder, progress: Progress, rank: int
    ) -> None:
        self.config, self.plan, self.team, self.progress, self.rank = config, plan, team, progress, rank
        corpus_folder = work_dir() / "corpus"
        real, synthetic = Corpus(corpus_folder, "train"), Corpus(corpus_folder, "synthetic")
        self.labeller = Labeller.load(corpus_folder, shared_dir() / "text")
        augmenter = open_augmenter(config.augment, corpus_folder, real)
        maker = BatchMaker(augmenter, self.labeller, model.subsampling.mean.cpu().numpy())
        self.trigram: PhoneTrigram | None = None
        if config.train.crf:
            sentences = phone_sentences((real, synthetic), self.labeller.lexicon, shared_dir() / "text")
            self.trigram = PhoneTrigram(sentences, len(PHONES))
        cursor = progress.cursors[rank] if rank < len(progress.cursors) else Cursor(pool=progress.step)
        self.stream = BatchStream(Sampler(real, synthetic, config), maker, config.train.seed, rank, cursor)
        self.layout = Layout(model)
        self.model = model.train()
        self.layout.attach(model, team.state.parameters, team.state.gradients[rank])
        self.optimiser = Optimiser(self.layout, team.state, rank, plan.workers, config.train.weight_decay)

    def step(self) -> tuple[Tensor, float]:
        """Do one step together with all workers.

        Returns:
            float64[workers, 4] losses and audio seconds of every worker, and the norm of the gradient.
        """
        train, progress, team = self.config.train, self.progress, self.team
        batch_s = train.batch_s(progress.hours) / self.plan.workers
        batch = self.stream.next(batch_s, strength(self.config, progress.hours))
        torch.manual_seed(hash((train.seed, self.rank, progress.step)))
        team.state.gradients[self.rank].zero_()
        logits = self.model(torch.from_numpy(batch.features).to(self.plan.device), self._chunk())
        losses = batch_losses(logits, batch)
        weights = (train.loss_bpe, train.loss_phones, train.loss_middle_phones)
        total = torch.stack([loss * weight for loss, weight in zip(losses, weights, strict=True)]).sum()
        if self.trigram is not None and self.progress.hours >= train.crf_from_hours:
            frames = torch.from_numpy(batch.frames) * PHONES_PER_FRAME
            total = total + train.loss_phones * train.crf * rivals(logits.phones, frames, batch.phones, self.trigram)
        total.backward()  # type: ignore[no-untyped-call]
        team.losses[self.rank] = torch.tensor([*(loss.item() for loss in losses), batch.seconds])
        cursor = self.stream.cursor
        team.cursors[self.rank] = torch.tensor([cursor.pool, cursor.position, cursor.batch_s], dtype=torch.float64)
        team.barrier.wait()
        self.optimiser.reduce()
        team.barrier.wait()
        rate = learning_rate(train, progress, self.plan.decay_hours)
        norm = self.optimiser.step(rate, progress.step + 1, train.clip_norm, smoothing(train, progress.step))
        result = team.losses.clone()
        progress.step += 1
        progress.audio_s += float(result[:, -1].sum())
        progress.cursors = [Cursor(int(pool), int(position), size) for pool, position, size in team.cursors.tolist()]
        team.barrier.wait()
        return result, norm

    def finished(self) -> bool:
        """Tell whether the asked-for audio has been consumed."""
        plan, progress = self.plan, self.progress
        if plan.decay_hours is not None and progress.decay_from_s is not None:
            return progress.audio_s >= progress.decay_from_s + plan.decay_hours * 3600
        return plan.hours is not None and progress.hours >= plan.hours

    def _chunk(self) -> int:
        """Return this step's chunk size, the same on all workers."""
        choices = self.config.model.chunk_frames
        generator = torch.Generator().manual_seed(self.config.train.seed * 1_000_003 + self.progress.step)
        return choices[int(torch.randint(len(choices), (1,), generator=generator))]


class Reporter:
    """Log, dev scores and checkpoints of a run; only worker 0 has one."""

    def __init__(self, worker: Worker, description: Description) -> None:
        self._worker, self._description = worker, description
        config = worker.config.train
        self._dev = Corpus(work_dir() / "corpus", "dev")
        self._clips = choose_clips(self._dev, config.evaluate_clips)
        self._smooth = description.build()
        self._smooth.subsampling.load_state_dict(worker.model.subsampling.state_dict())
        self._smooth.to(worker.plan.device)
        worker.layout.attach(self._smooth, worker.team.state.average)
        self._log_path = work_dir() / "log" / f"{worker.plan.run}.jsonl"
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        self._window: list[Tensor] = []
        self._checkpoint_at = self._evaluate_at = self._window_at = time.monotonic()
        self._window_cpu_s = _cpu_s()

    def after_step(self, losses: Tensor, norm: float, out: TextIO) -> None:
        """Do whatever is due after a step."""
        config = self._worker.config.train
        now = time.monotonic()
        self._window.append(losses)
        if self._worker.progress.step % _LOG_EVERY_STEPS == 0:
            print(self._line(norm, now), file=out, flush=True)
        if now - self._checkpoint_at >= config.checkpoint_every_s:
            self.checkpoint()
        if now - self._evaluate_at >= config.evaluate_every_s:
            self.evaluate(out)

    def checkpoint(self) -> None:
        """Write the run's checkpoint."""
        worker = self._worker
        path = worker.plan.folder / "latest.pt"
        save_checkpoint(
            path,
            self._description,
            layout=worker.layout,
            state=worker.team.state,
            model=worker.model,
            progress=worker.progress,
        )
        self._checkpoint_at = time.monotonic()

    def evaluate(self, out: TextIO) -> None:
        """Score the averaged weights on the dev clips and append the result to the log."""
        worker = self._worker
        scores = evaluate(self._smooth, self._dev, self._clips, worker.labeller)
        entry = {
            "step": worker.progress.step,
            "hours": round(worker.progress.hours, 2),
            "wer": {name: round(score.words.percent, 1) for name, score in scores.items()},
            "per": {name: round(score.phones.percent, 1) for name, score in scores.items()},
        }
        with self._log_path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(entry) + "\n")
        print("dev", json.dumps(entry), file=out, flush=True)
        self._evaluate_at = time.monotonic()

    def _line(self, norm: float, now: float) -> str:
        progress, plan = self._worker.progress, self._worker.plan
        window = torch.stack(self._window)
        seconds = float(window[..., -1].sum())
        means = window[..., :-1].mean(dim=(0, 1)).tolist()
        speed = seconds / (now - self._window_at)
        per_cpu = seconds / plan.workers / (_cpu_s() - self._window_cpu_s)
        self._window, self._window_at, self._window_cpu_s = [], now, _cpu_s()
        rate = learning_rate(self._worker.config.train, progress, plan.decay_hours)
        losses = " ".join(f"{name} {value:.3f}" for name, value in zip(_LOSS_NAMES, means, strict=True))
        return (
            f"step {progress.step} audio {progress.hours:.2f} h lr {rate:.2e} {losses} norm {norm:.2f} "
            f"| {speed:.0f} audio-s/s, {per_cpu:.0f} per CPU-s{self._eta(speed)}"
        )

    def _eta(self, speed: float) -> str:
        progress, plan = self._worker.progress, self._worker.plan
        end = plan.hours
        if plan.decay_hours is not None and progress.decay_from_s is not None:
            end = progress.decay_from_s / 3600 + plan.decay_hours
        if end is None:
            return ""
        return f", ETA {max(0.0, end - progress.hours) * 3600 / max(speed, 1e-9) / 60:.0f} min"


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def run_worker(config: RecipeConfig, plan: Plan, team: Team, *, model: Encoder, progress: Progress, rank: int) -> None:
    """Train until the plan is fulfilled or the parent asks to stop (entry point of a process)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if plan.device == "cpu":
        torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    parent = os.getppid()
    worker = Worker(config, plan, team, model=model, progress=progress, rank=rank)
    description = worker.labeller.describe(config.model)
    reporter = Reporter(worker, description) if rank == 0 else None
    while not worker.finished() and not int(team.command):
        losses, norm = worker.step()
        if reporter is not None:
            if not math.isfinite(norm):
                print(f"step {worker.progress.step}: gradient norm {norm}, step skipped", flush=True)
            reporter.after_step(losses, norm, sys.stdout)
            team.command[0] = int(team.stop.is_set() or (plan.workers > 1 and os.getppid() != parent))
        team.barrier.wait()
    if reporter is not None:
        reporter.checkpoint()
        reporter.evaluate(sys.stdout)


def build(
    config: RecipeConfig, plan: Plan, init: Path | None, from_run: str | None
) -> tuple[Encoder, SharedState, Progress]:
    """Build the model and its state: from the run's checkpoint, another run's, a weight file, or from scratch."""
    corpus_folder = work_dir() / "corpus"
    labeller = Labeller.load(corpus_folder, shared_dir() / "text")
    torch.manual_seed(config.train.seed)
    model = labeller.describe(config.model).build()
    candidates = [plan.folder / "latest.pt"]
    if from_run is not None:
        candidates.append(work_dir() / "checkpoints" / from_run / "latest.pt")
    checkpoint = next((path for path in candidates if path.is_file()), None)
    if checkpoint is None and init is not None:
        model.load_state_dict(load_weights(init)[0].state_dict())
    elif checkpoint is None:
        mean, deviation = feature_statistics(Corpus(corpus_folder, "train"), config.train.seed)
        model.subsampling.mean.copy_(torch.from_numpy(mean))
        model.subsampling.scale.copy_(torch.from_numpy(1.0 / deviation))
    model.to(plan.device)
    layout = Layout(model)
    state = SharedState.create(layout, layout.flatten(model), plan.workers)
    progress = Progress()
    if checkpoint is not None:
        progress = load_checkpoint(checkpoint, layout, state, model)
        print(f"resume from {checkpoint}: step {progress.step}, {progress.hours:.2f} h", flush=True)
    if plan.decay_hours is not None and progress.decay_from_s is None:
        progress.decay_from_s = progress.audio_s
    return model, state, progress


def train(config: RecipeConfig, plan: Plan, init: Path | None = None, from_run: str | None = None) -> int:
    """Run training and return the exit status."""
    model, state, progress = build(config, plan, init, from_run)
    print(json.dumps({"plan": asdict(plan), "train": asdict(config.train), "model": asdict(config.model)}), flush=True)
    context = torch.multiprocessing.get_context("spawn")
    shape = (plan.workers, len(_LOSS_NAMES) + 1)
    losses, cursors = torch.zeros(shape, dtype=torch.float64), torch.zeros(plan.workers, 3, dtype=torch.float64)
    command = torch.zeros(1, dtype=torch.int64)
    team = Team(state, losses, cursors, command, context.Barrier(plan.workers), context.Event())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: team.stop.set())
    if plan.device != "cpu":
        run_worker(config, plan, team, model=model, progress=progress, rank=0)
        return 0
    state.share()
    for tensor in (losses, cursors, command):
        tensor.share_memory_()  # type: ignore[no-untyped-call]
    processes: list[BaseProcess] = [
        context.Process(
            target=run_worker, args=(config, plan, team), kwargs={"model": model, "progress": progress, "rank": rank}
        )
        for rank in range(plan.workers)
    ]
    for process in processes:
        process.start()
    return _watch(processes, team)


def _watch(processes: list[BaseProcess], team: Team) -> int:
    """Wait for the workers; when one fails, end the others."""
    while any(process.is_alive() for process in processes):
        for process in processes:
            process.join(timeout=1.0)
        if any(process.exitcode for process in processes):
            team.barrier.abort()
            for process in processes:
                process.kill()
            return 1
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m models.training.train", description=__doc__)
    parser.add_argument("--config", type=Path, default=CONFIG_FILE)
    parser.add_argument("--run", default="main", help="name of the run; it resumes by itself")
    parser.add_argument("--from-run", help="start from the checkpoint of another run")
    parser.add_argument("--init", type=Path, help="start from a weight file")
    parser.add_argument("--hours", type=float, help="end after this much audio in total")
    parser.add_argument("--decay-hours", type=float, help="anneal the learning rate over this much audio, then end")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args(arguments)
    workers = options.workers if options.device == "cpu" else 1
    plan = Plan(options.run, options.hours, options.decay_hours, workers, options.device)
    return train(load_config(options.config), plan, options.init, options.from_run)


if __name__ == "__main__":
    sys.exit(main())
