"""Which number of streams counts, and both servers once from start to end on a tiny model."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from bench import peer, sherpa
from bench.clients import Client
from bench.peer import Point, Side
from bench.server import ServerFailed
from models.errors import ModelError
from tests.conftest import skip_or_fail
from tests.serving.tiny_models import make_slots_model


@pytest.mark.parametrize("most", [0, 1, 2, 3, 7, 40, 170])
@pytest.mark.parametrize("first", [1, 24, 500])
def test_the_search_finds_the_border(most: int, first: int) -> None:
    tried: list[int] = []

    def holds(number: int) -> bool:
        tried.append(number)
        return number <= most

    found = peer.search(holds, first)
    assert most - max(1, 0.08 * most) <= found <= most
    assert len(tried) == len(set(tried)) <= 20
    assert min(tried) >= 1


def test_what_holds() -> None:
    assert Point(10, 499.0, 5.0, 100.0, 0).holds
    assert not Point(10, 500.0, 5.0, 100.0, 0).holds
    assert not Point(10, 20.0, 5.0, 100.0, 1).holds
    assert not Point(10, None, 5.0, 100.0, 0).holds


def test_server_and_clients_have_cores_of_their_own() -> None:
    assert peer.split_cores({0, 1, 5}) == ({5}, {0, 1})
    assert peer.split_cores({3}) == ({3}, {3})


def side(name: str, *streams: int) -> Side:
    best = [Point(number, 100.0 + number, 1000 / number, 200.0, 0) for number in streams]
    eased = [Point(round(0.8 * point.streams), 50.0, 9.0, 200.0, 0) for point in best]
    return Side(name, lambda: sherpa.started(Path(), ""), Client, "/", [], best, best + eased)


def test_the_result_is_json_with_the_promised_keys(tmp_path: Path) -> None:
    sides = [side("ours", 170, 150, 160), side("theirs", 50, 40)]
    summary = json.loads(json.dumps(peer.to_dict(sides)))
    assert summary == {
        "ours": {"max_streams": 160, "cpu_ms_per_audio_s": 6.25, "final_p95_ms": 260.0, "rss_mb": 200.0},
        "peer": {"max_streams": 40, "cpu_ms_per_audio_s": 25.0, "final_p95_ms": 140.0, "rss_mb": 200.0},
        "ratio": 4.0,
    }
    screen = io.StringIO()
    Console(file=screen, width=100).print(peer.to_table(sides))
    assert "4.00 times the streams" in screen.getvalue()
    pytest.importorskip("matplotlib")
    peer.plot(sides, tmp_path / "peer.png")
    assert (tmp_path / "peer.png").stat().st_size > 1000


def test_a_layout_that_the_peer_does_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sherpa, "program", lambda: "server")
    with pytest.raises(ModelError, match="both read nemo_ctc, zipformer2_ctc"):
        peer.make_sides(make_slots_model(tmp_path), tmp_path, [], seconds=1.0, against="best", every=False)


@pytest.mark.slow
def test_both_servers_are_measured(tmp_path: Path, shared_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    try:
        sherpa.program()
    except ServerFailed as error:
        skip_or_fail(str(error))
    from bench.tracks import load_clips
    from scripts.make_random_models import make_nemo

    monkeypatch.setattr("models.optimize.parity._ROUND_S", 1e-6)
    monkeypatch.setattr(peer, "_FIRST_STREAMS", 1)
    monkeypatch.setattr(peer, "_RAMP_S", 0.1)
    monkeypatch.setattr(peer, "search", lambda holds, first: first if holds(first) or holds(first) else 0)
    model = make_nemo(tmp_path / "checkpoint", "tiny")
    clips, cores = load_clips(shared_dir, 1, 4), os.sched_getaffinity(0)
    sides = peer.make_sides(model, tmp_path, clips, seconds=2.0, against="published", every=True)
    told: list[str] = []
    peer.run(sides, 1, lambda name, point: told.append(f"{name}: {point.line}"))
    assert [line.split(":")[0] for line in told] == ["asrgate", "sherpa-onnx, published"]
    assert all("1 streams hold" in line for line in told)
    summary = peer.to_dict(sides)
    assert summary["ours"]["max_streams"] == summary["peer"]["max_streams"] == 1
    assert min(summary["ours"]["cpu_ms_per_audio_s"], summary["peer"]["cpu_ms_per_audio_s"]) > 0
    assert os.sched_getaffinity(0) == cores
