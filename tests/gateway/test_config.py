from __future__ import annotations

import json
import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest

from gateway.config import Config, SessionConfig, WebRtcConfig, load
from pipeline.endpoint import DEFAULT_RULES
from pipeline.errors import ConfigError
from tests.conftest import REPOSITORY


def write(folder: Path, text: str) -> Path:
    path = folder / "asrgate.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_documented_file_is_the_defaults_and_names_every_key() -> None:
    path = REPOSITORY / "config" / "asrgate.toml"
    assert load(path) == load(None) == Config()
    assert tomllib.loads(path.read_text("utf-8")) == json.loads(json.dumps(asdict(Config())))


def test_a_file_overrides_what_it_names(tmp_path: Path) -> None:
    config = load(write(tmp_path, '[server]\nport = 9000\n[model]\npath = "~/m"\n[vad.hysteresis]\nonset_frames = 4\n'))
    assert (config.server.port, config.server.host) == (9000, "127.0.0.1")
    assert config.model.folder == Path.home() / "m"
    assert config.vad.hysteresis.onset_frames == 4


def test_a_whole_number_does_for_a_number(tmp_path: Path) -> None:
    assert load(write(tmp_path, "[session]\nresume_s = 5")).session == SessionConfig(resume_s=5.0)


def test_one_port_a_range_of_ports_or_any() -> None:
    ports = [list(WebRtcConfig(udp_ports=given).ports) for given in ("", "8443", "50000-50002")]
    assert ports == [[0], [8443], [50000, 50001, 50002]]


def test_secrets_come_from_the_environment_and_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASRGATE_WHIP_TOKEN", "from outside")
    assert WebRtcConfig().bearer == "from outside"
    assert WebRtcConfig(token="from the file").bearer == "from the file"  # noqa: S106
    assert "from the file" not in repr(WebRtcConfig(token="from the file"))  # noqa: S106


def test_the_shipped_model_is_the_default() -> None:
    assert Config().model.folder == REPOSITORY / "models" / "pretrained" / "asrgate-en-small"


def test_the_endpoint_defaults_are_those_of_the_pipeline() -> None:
    assert Config().endpoint.rules == DEFAULT_RULES


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[server]\nprot = 1", "server.prot; did you mean server.port?"),
        ("[sever]\nport = 1", "did you mean server?"),
        ("[vad.hysteresis]\nonset = 1", "did you mean vad.hysteresis.onset_frames?"),
        ("[server]\nxyzzy = 1", "known are drain_s, host"),
        ('[server]\nport = "80"', "server.port takes a whole number, not '80'"),
        ("[server]\nport = 80.5", "server.port takes a whole number"),
        ("[server]\nport = 70000", "server.port 70000"),
        ("[server]\nport = true", "server.port takes a whole number"),
        ("[server]\nhost = 1", "server.host takes a string"),
        ("[session]\nresume_s = -1", "session.resume_s cannot be -1.0"),
        ("[session]\nresume_s = nan", "cannot be nan"),
        ("[session]\nhigh_water_s = 1", "session.low_water_s"),
        ("[session]\nslot_retry_s = 0", "slot_retry_s"),
        ('[serving]\nbackend = "cloud"', "serving.backend takes one of local, ray"),
        ("[ray]\nreplicas = 3", "ray.replicas 3 must be from 1 to ray.max_replicas 1"),
        ("[ray]\ntarget_use = 7", "ray.target_use"),
        ("[ray]\ntick_ms = 0", "ray.tick_ms"),
        ('[vad]\nkind = "best"', "vad.kind takes one of neural, silero, webrtc, not 'best'"),
        ("[vad]\noff = 0.9", "vad.off 0.9"),
        ("[denoise]\nmode = true", "denoise.mode takes one of off, auto, on"),
        ("[webrtc]\nadvertise = '192.0.2.1'", "webrtc.advertise takes a list of strings"),
        ("[webrtc]\nadvertise = ['example.org']", "'example.org' is no IP address"),
        ("[webrtc]\nudp_ports = '80-'", "'80-' is no port"),
        ("[webrtc]\nudp_ports = '9000-8000'", "is no port"),
        ("[webrtc]\nice_servers = ['http://a']", "begins with none of stun:"),
        ("server = 1", r"write \[server\]"),
        ("[server", "is not TOML"),
    ],
)
def test_what_cannot_work_is_refused_by_file_key_and_remedy(tmp_path: Path, text: str, names: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=names) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read"):
        load(tmp_path / "nowhere.toml")
