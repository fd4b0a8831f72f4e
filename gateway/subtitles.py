"""Write recognized utterances as plain text, JSON, SubRip or WebVTT.

Pure: utterances in, text out. A long utterance is cut into cues at word boundaries, because a subtitle that stays for
half a minute or fills the screen cannot be read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.transcript import Final, Word

LONGEST_CUE_S = 6.0
LONGEST_CUE_CHARS = 84
_PAUSE_S = 0.8


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was recognized in one recording.

    Attributes:
        audio_s: Length of the recording.
        finals: The utterances that have words, in time order, on the recording's clock.
        model: Version of the model that recognized them.
    """

    audio_s: float
    finals: tuple[Final, ...]
    model: str

    @property
    def text(self) -> str:
        """All words, utterances joined by spaces."""
        return " ".join(final.text for final in self.finals)


@dataclass(frozen=True, slots=True)
class Cue:
    """One subtitle: a line of text from `start_s` to `end_s`."""

    start_s: float
    end_s: float
    text: str


def cut_cues(finals: Iterable[Final]) -> Iterator[Cue]:
    """Cut utterances into readable cues; the words of a cue keep their order and none is lost."""
    for final in finals:
        if not final.words:
            if final.text:
                yield Cue(final.start_s, final.end_s, final.text)
            continue
        held: list[Word] = []
        for word in final.words:
            if held and _breaks(held, word):
                yield _cue(held)
                held = []
            held.append(word)
        yield _cue(held)


def _breaks(held: Sequence[Word], word: Word) -> bool:
    chars = sum(len(other.word) + 1 for other in held) + len(word.word)
    too_long = chars > LONGEST_CUE_CHARS or word.end_s - held[0].start_s > LONGEST_CUE_S
    return too_long or word.start_s - held[-1].end_s > _PAUSE_S


def _cue(words: Sequence[Word]) -> Cue:
    return Cue(words[0].start_s, words[-1].end_s, " ".join(word.word for word in words))


def _clock(seconds: float, fraction_mark: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}{fraction_mark}{milliseconds % 1000:03}"


def to_txt(transcript: Transcript) -> str:
    """Return one utterance a line."""
    return "".join(f"{final.text}\n" for final in transcript.finals)


def to_dict(transcript: Transcript) -> dict[str, Any]:
    """Return the transcript as JSON-ready values: text, and utterances with words, times and confidence."""
    utterances = [
        {
            "utterance": number,
            "text": final.text,
            "start_s": _rounded(final.start_s),
            "end_s": _rounded(final.end_s),
            "confidence": _rounded(final.confidence),
            "words": [{key: _rounded(value) for key, value in asdict(word).items()} for word in final.words],
        }
        for number, final in enumerate(transcript.finals)
    ]
    return {
        "text": transcript.text,
        "audio_s": _rounded(transcript.audio_s),
        "model": transcript.model,
        "utterances": utterances,
    }


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


def to_json(transcript: Transcript) -> str:
    """Return an indented JSON document."""
    return json.dumps(to_dict(transcript), ensure_ascii=False, indent=2) + "\n"


def to_srt(transcript: Transcript) -> str:
    """Return SubRip: numbered cues, comma before the milliseconds."""
    cues = enumerate(cut_cues(transcript.finals), start=1)
    return "".join(
        f"{number}\n{_clock(cue.start_s, ',')} --> {_clock(cue.end_s, ',')}\n{cue.text}\n\n" for number, cue in cues
    )


def to_vtt(transcript: Transcript) -> str:
    """Return WebVTT (W3C); `&` and `<` are escaped as cue text demands."""
    body = "".join(
        f"{_clock(cue.start_s, '.')} --> {_clock(cue.end_s, '.')}\n{_escape(cue.text)}\n\n"
        for cue in cut_cues(transcript.finals)
    )
    return f"WEBVTT\n\n{body}"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


WRITERS: dict[str, Callable[[Transcript], str]] = {"txt": to_txt, "json": to_json, "srt": to_srt, "vtt": to_vtt}
"""Writer of each format name; the name is the file suffix too."""
