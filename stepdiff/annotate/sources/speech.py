"""What is said in a video file, by a Whisper model or from a subtitle file beside it.

Guarantees
- memory is that of ten minutes of sound, however long the file is
- times are seconds of the video, as the clips of a manifest count them, also after a gap in the
  sound
"""

import re
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.format import Flags
from jaxtyping import Float32

from featurize.video.media_file import opened_alone
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import open_regular

RATE = 16_000  # samples a second, as Whisper hears
BLOCK = 600.0  # seconds that are transcribed together, at most
_SEARCH = 30.0  # seconds at the end of a block in which it is cut where it is quietest
_WINDOW = RATE // 10  # samples whose loudness is compared
_GAP = 0.5  # seconds between two frames of sound from which on it is a gap
SUBTITLES = (".srt", ".vtt")
_LANGUAGE = re.compile(r"(.+)\.([A-Za-z]{2,3}(?:[-_][A-Za-z0-9]+)*)", re.DOTALL)  # NAME.LANGUAGE
_MOST_BYTES = 2**26  # of a subtitle file
_ROLLING = 0.05  # seconds between two cues of rolling captions, which repeat a line, at most


class Word(NamedTuple):
    start: float  # seconds
    end: float
    text: str


class Sentence(NamedTuple):
    start: float  # seconds
    end: float
    text: str
    words: tuple[Word, ...]  # none of subtitles


class Speech(NamedTuple):
    sentences: list[Sentence]
    language: str | None  # ISO 639-1; None of subtitles that do not say


class Sound(NamedTuple):
    start: float  # seconds
    samples: Float32[np.ndarray, " N"]  # RATE a second, mono


def sounds(path: Path) -> Iterator[Sound]:
    """Yield the first sound track in blocks of BLOCK seconds, at most, cut where it is quietest.

    StepDiffError: no sound track, or none of its packets can be decoded.
    """
    with opened_alone(path) as container:
        if not container.streams.audio:
            raise StepDiffError("it has no sound track: write NAME.srt beside it")
        buffered: list[Float32[np.ndarray, " N"]] = []
        start, size = 0.0, 0
        empty = True
        for at, samples in _pieces(container):
            empty = False
            if size and abs(at - (start + size / RATE)) > _GAP:
                yield Sound(start, np.concatenate(buffered))
                buffered, size = [], 0
            if not size:
                start = at
            buffered.append(samples)
            size += len(samples)
            if size >= BLOCK * RATE:
                block = np.concatenate(buffered)
                cut = _quietest(block)
                yield Sound(start, block[:cut])
                buffered, size = [block[cut:]], len(block) - cut
                start += cut / RATE
        if size:
            yield Sound(start, np.concatenate(buffered))
        if empty:
            raise StepDiffError("no packet of its sound can be decoded: convert it")


def _pieces(container: InputContainer) -> Iterator[tuple[float, Float32[np.ndarray, " N"]]]:
    """Yield time and samples of each frame of sound; packets that cannot be decoded are gaps."""
    stream = container.streams.audio[0]
    broadcast = bool(Flags(container.format.flags) & Flags.ts_discont)
    zero = (container.start_time or 0) / av.time_base if broadcast else 0.0
    resampler, after = av.AudioResampler("flt", "mono", RATE), 0.0
    for frame in _frames(container, stream):
        at = after if frame.time is None else frame.time - zero
        if abs(at - after) > _GAP:
            resampler = av.AudioResampler("flt", "mono", RATE)  # which would fill a gap
        after = at + frame.samples / frame.sample_rate
        frame.pts = None
        for resampled in resampler.resample(frame):
            yield max(at, 0.0), resampled.to_ndarray()[0]


def _frames(container: InputContainer, stream: Any) -> Iterator[av.AudioFrame]:
    try:
        for packet in container.demux(stream):
            try:
                yield from packet.decode()
            except av.error.FFmpegError:
                continue
    except av.error.FFmpegError:  # the file breaks off
        return


def _quietest(block: Float32[np.ndarray, " N"]) -> int:
    """Return the sample near the end of a block around which it is quietest."""
    first = len(block) - int(_SEARCH * RATE)
    windows = block[first : first + (len(block) - first) // _WINDOW * _WINDOW]
    loudness = np.square(windows.reshape(-1, _WINDOW)).mean(1)
    return first + int(loudness.argmin()) * _WINDOW + _WINDOW // 2


class Whisper:
    """A Whisper model in CTranslate2's format.

    folder: of model.bin; device: cpu or cuda.
    """

    def __init__(self, folder: Path, device: str, threads: int) -> None:
        from faster_whisper import WhisperModel

        try:
            self._model = WhisperModel(
                str(folder), device=device, compute_type="auto", cpu_threads=threads
            )
        except (RuntimeError, ValueError) as error:
            raise StepDiffError(
                f"{folder} is no Whisper model in CTranslate2's format ({error}): give "
                "whisper-base, or a folder that ct2-transformers-converter made"
            ) from None

    def hear(
        self, path: Path, language: str | None, heard: Callable[[float], None]
    ) -> Speech:
        """Return what is said in a video; `heard` receives the seconds that are done.

        language: ISO 639-1; None: the one that is heard in the first block with speech.
        StepDiffError: no speech is heard, or as `sounds`.
        """
        sentences: list[Sentence] = []
        for sound in sounds(path):
            segments, info = self._model.transcribe(
                sound.samples,
                language=language,
                word_timestamps=True,
                vad_filter=True,  # else "Thank you." is heard in silence
                condition_on_previous_text=False,  # else one loop is repeated for minutes
            )
            for segment in segments:
                words = tuple(
                    Word(_at(sound, word.start), _at(sound, word.end), word.word.strip())
                    for word in segment.words or ()
                )
                text = segment.text.strip()
                if text and words:
                    sentences.append(Sentence(words[0].start, words[-1].end, text, words))
                heard(_at(sound, segment.end))
            if sentences:
                language = info.language
            heard(sound.start + len(sound.samples) / RATE)
        if not sentences:
            raise StepDiffError("no speech is heard in it: write NAME.srt beside it")
        return Speech(sentences, language)


def _at(sound: Sound, seconds: float) -> float:
    return round(float(sound.start + seconds), 2)


class Subtitles:
    """The subtitle files beside videos; each folder is listed once."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, list[tuple[str, Path]]]] = {}
        """folder -> stem of a video -> language and file, by name"""

    def of(self, video: Path, language: str | None) -> Path | None:
        """Return NAME.srt, NAME.vtt, else NAME.LANGUAGE.srt or .vtt, of the asked language (None:
        the first)."""
        for suffix in SUBTITLES:
            if (exact := video.with_suffix(suffix)).is_file():
                return exact
        if video.parent not in self._folders:
            self._folders[video.parent] = _with_language(video.parent)
        beside = self._folders[video.parent].get(video.stem, [])
        return next((file for of, file in beside if language in (None, of)), None)


def _with_language(folder: Path) -> dict[str, list[tuple[str, Path]]]:
    files: dict[str, list[tuple[str, Path]]] = {}
    for file in sorted(folder.iterdir()):
        name = _LANGUAGE.fullmatch(file.stem)
        if name and file.suffix in SUBTITLES and file.is_file():
            files.setdefault(name[1], []).append((name[2], file))
    return files


def read_subtitles(path: Path) -> Speech:
    """Read the cues of an .srt or .vtt file; lines that rolling captions repeat are read once.

    StepDiffError: it cannot be read, is no such file or has no cue with text.
    """
    import pysubs2

    with open_regular(path, "an .srt or .vtt file") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise StepDiffError(f"{path} has more than {_MOST_BYTES:,} bytes: it is no subtitle file")
    # tags, of which pysubs2 takes the times within a line for cues
    text = re.sub(r"<[^<>\n]*>", "", data.decode("utf-8-sig", "replace"))
    try:
        cues = pysubs2.SSAFile.from_string(text, format_=path.suffix[1:])
    except (ValueError, pysubs2.Pysubs2Error) as error:
        raise StepDiffError(f"{path} has no subtitles ({error}): correct or remove it") from None
    sentences: list[Sentence] = []
    before: list[str] = []
    end = 0.0
    for cue in sorted(cues, key=lambda cue: (cue.start, cue.end)):
        lines = [" ".join(line.split()) for line in unescape(cue.plaintext).splitlines()]
        lines = [line for line in lines if line]
        rolls = cue.start / 1000 - end <= _ROLLING
        fresh = [line for line in lines if not (rolls and line in before)]
        if fresh and cue.end > cue.start:
            sentences.append(Sentence(cue.start / 1000, cue.end / 1000, " ".join(fresh), ()))
        if lines:
            before, end = lines, cue.end / 1000
    if not sentences:
        raise StepDiffError(f"{path} has no cue with text: correct or remove it")
    middle = path.stem.rpartition(".")[2]
    return Speech(sentences, middle.lower()[:2] if middle != path.stem else None)


def as_json(speech: Speech) -> dict[str, Any]:
    """Return speech as an entry of a narration file; `words` holds start, end and text of each
    word of each sentence."""
    columns: dict[str, Any] = {
        name: [getattr(sentence, name) for sentence in speech.sentences]
        for name in ("start", "end", "text")
    }
    return {
        **columns,
        "words": [[list(word) for word in sentence.words] for sentence in speech.sentences],
        "language": speech.language,
    }
