"""stepdiff annotate transcribe videos/ --out data/narration.json

Writes what is said in videos, with the seconds of each sentence and word, by a Whisper model
(stepdiff weights fetch whisper-base), or from NAME.srt or NAME.vtt beside a video. The file is a
--narration of align, manifest and describe; each video is named by its file's stem. Finished videos
are kept in OUT.parts, so that a killed run continues.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepdiff.annotate.stages.job import HINT, WorkOptions, show_failures
from stepdiff_core.cli import command
from stepdiff_core.cli.options import WRITTEN, incomplete, parse
from stepdiff_core.errors import StepDiffError

if TYPE_CHECKING:
    from stepdiff.annotate.sources.speech import Whisper


@dataclass(frozen=True, kw_only=True)
class SpeechOptions(WorkOptions):
    videos: tuple[str, ...]
    """video files, or folders of them"""
    model: str = "whisper-base"
    """Whisper model in CTranslate2's format: a name of stepdiff weights list, a folder or hub id"""
    language: str | None = None
    """language of the speech, as en; null: the one that is heard in each video"""
    subtitles: bool = True
    """read NAME.srt, NAME.vtt or NAME.LANGUAGE.srt beside a video instead of listening"""


@dataclass(frozen=True, kw_only=True)
class TranscribeOptions(SpeechOptions):
    out: str = field(metadata=WRITTEN)
    """JSON file to write"""


def run(options: TranscribeOptions) -> dict[str, Any]:
    """Transcribe the videos that are not transcribed yet, and join all.

    StepDiffError: no video, two of one name, an unknown language or model, or another run writes
    the file.
    """
    import stepdiff_core

    stepdiff_core.require("stepdiff.annotate.transcribe", "speech", ("faster_whisper", "pysubs2"))
    from stepdiff.annotate.stages.stage import asked_device, workers_of
    from stepdiff_core.io.files import make_folder, refuse_url, write_pieces
    from stepdiff_core.io.locks import locked
    from stepdiff_core.progress import progress, say
    from stepdiff_core.weights import resolve
    from stepdiff_core.workers.cluster import refuse_relative

    begin = time.monotonic()
    refuse_url("--out", options.out)
    refuse_relative([("--out", options.out), *(("the video", path) for path in options.videos)])
    _check_language(options.language)
    out = Path(options.out).expanduser().absolute()
    parts, model = out.with_name(f"{out.name}.parts"), resolve(options.model)
    tasks = _tasks(options, parts, model)
    make_folder(parts)
    errors: dict[str, None] = {}
    with locked(parts / "lock.json", wait=False):
        unfinished = [task for task in tasks if task.is_unfinished(options.retry_failed)]
        if unfinished:
            seconds = sum(len(task.rows) for task in unfinished)
            of_worker = partial(_WorkerOptions, model, options.language, asked_device(options))
            with (
                workers_of(options, _Worker, of_worker, "seconds") as (pool, workers),
                progress("speech", seconds, "seconds") as advance,
            ):
                for outcome in pool.run(unfinished, min(workers, len(unfinished)), advance):
                    if outcome.error:
                        say(f"error: {outcome.error}")
                        errors[outcome.error] = None
        counts, languages = Counter[str](), Counter[str]()
        failures: list[dict[str, str]] = []

        def entries() -> Iterator[bytes]:
            mark = "{"
            for task in tasks:
                if (part := task.part()) is None:
                    counts["absent"] += 1
                elif "failure" in part:
                    failures.append({"video": task.video, "reason": part["failure"]})
                else:
                    yield f"{mark}\n{json.dumps(task.video)}: {json.dumps(part['speech'])}".encode()
                    mark = ","
                    counts["with_speech"] += 1
                    counts["with_subtitles"] += task.subtitles is not None
                    counts["sentences"] += len(part["speech"]["text"])
                    languages[part["speech"]["language"] or "unknown"] += 1
            yield b"{}\n" if mark == "{" else b"\n}\n"

        write_pieces(out, entries())
    return {
        "out": options.out,
        "videos": len(tasks),
        **{name: counts[name] for name in ("with_speech", "with_subtitles", "sentences")},
        "languages": dict(languages.most_common()),
        "failed": len(failures),
        "absent": counts["absent"],
        "allowed": options.allow_failed,
        "failures": failures,
        "already": len(tasks) - len(unfinished),
        "seconds": round(time.monotonic() - begin, 3),
        "errors": list(errors),
    }


def _check_language(language: str | None) -> None:
    from faster_whisper.tokenizer import _LANGUAGE_CODES

    if language is not None and language not in _LANGUAGE_CODES:
        raise StepDiffError(
            f"--language {language!r} is none that Whisper knows: give its code, as en, de or zh"
        )


@dataclass(frozen=True)
class _Task:
    """A video to transcribe: a task of a pool of workers, whose rows are seconds."""

    shard: int
    video: str  # the file's stem
    path: Path
    subtitles: Path | None
    made_of: dict[str, Any]  # all that determines the speech
    out: Path
    rows: Sequence[int]
    failures: tuple[()] = ()

    def part(self) -> dict[str, Any] | None:
        """Return the speech, or the failure, that an earlier run wrote, if it was made of the
        same."""
        try:
            part = json.loads(self.out.read_text(encoding="utf-8"))
            return part if part["made_of"] == self.made_of else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def is_unfinished(self, retry_failed: bool) -> bool:
        part = self.part()
        return part is None or (retry_failed and "failure" in part)


def named(videos: Sequence[str]) -> dict[str, Path]:
    """Return stem and path of each video of files and folders. StepDiffError: two have one stem."""
    from featurize.manifest import video_files

    files: dict[str, Path] = {}
    for path in chain.from_iterable(video_files(Path(name)) for name in videos):
        path = path.absolute()
        if (other := files.setdefault(path.stem, path)) is not path:
            raise StepDiffError(
                f"{other} and {path} have the same stem, which names their speech: rename one"
            )
    return files


def seconds_of(video: Path) -> float:
    """Return the length of a video, 0 if it cannot be read."""
    from featurize.manifest import length

    try:
        return length(video)
    except Exception:  # whatever FFmpeg or PyAV raises, the stages say why
        return 0.0


def _tasks(options: TranscribeOptions, parts: Path, model: Path) -> list[_Task]:
    from featurize.video.media_file import identities
    from stepdiff.annotate.sources.speech import Subtitles
    from stepdiff_core.weights import fingerprint

    hearing: dict[str, Any] = {"model": fingerprint(model), "language": options.language}
    files, beside = named(options.videos), Subtitles()
    subtitles = {
        video: beside.of(path, options.language) if options.subtitles else None
        for video, path in files.items()
    }
    sources = {video: subtitles[video] or path for video, path in files.items()}
    made_of = {
        video: {"file": sources[video].name, "identity": str(each)}
        | ({} if subtitles[video] else hearing)
        for video, each in identities(sources).items()
    }
    return [
        _Task(
            number,
            video,
            path,
            subtitles[video],
            made_of[video],
            parts / f"{hashlib.sha256(video.encode(errors='surrogateescape')).hexdigest()}.json",
            range(max(int(seconds_of(path)), 1)),
        )
        for number, (video, path) in enumerate(files.items())
    ]


@dataclass(frozen=True)
class _WorkerOptions:
    model: Path
    language: str | None
    device: str | None  # None is a GPU if the worker has one
    cpus: int


@dataclass(frozen=True)
class _Transcribed:
    shard: int
    error: str | None = None


class _Worker:
    """Transcribes one video after another, as a Ray actor or in this process."""

    outcome = _Transcribed

    def __init__(self, options: _WorkerOptions) -> None:
        self._options, self._finished = options, 0

    def finished(self) -> int:
        return self._finished

    def run(self, task: _Task) -> _Transcribed:
        """Write the speech of a video, or why it has none."""
        from featurize.video.media_file import why
        from stepdiff_core.io.files import write_text

        part: dict[str, Any] = {"video": task.video, "made_of": task.made_of}
        whisper = self._whisper if task.subtitles is None else None  # no model is no video's fault
        try:
            part["speech"] = self._speech(task, whisper)
        except (RuntimeError, MemoryError):  # of the model or this machine, not of the file
            raise
        except Exception as error:  # whatever FFmpeg or PyAV raises, the file fails alone
            part["failure"] = why(task.path, error)
        finally:
            self._finished = 0
        write_text(task.out, json.dumps(part))
        return _Transcribed(task.shard)

    def _speech(self, task: _Task, whisper: "Whisper | None") -> dict[str, Any]:
        from stepdiff.annotate.sources.speech import as_json, read_subtitles

        if whisper is None:
            assert task.subtitles is not None
            return as_json(read_subtitles(task.subtitles))

        def heard(seconds: float) -> None:
            self._finished = min(int(seconds), len(task.rows))

        return as_json(whisper.hear(task.path, self._options.language, heard))

    @cached_property
    def _whisper(self) -> "Whisper":
        import ctranslate2

        from stepdiff.annotate.sources.speech import Whisper

        options = self._options
        device = options.device or ("cuda" if ctranslate2.get_cuda_device_count() else "cpu")
        return Whisper(options.model, device.partition(":")[0], options.cpus)


def show(record: dict[str, Any]) -> None:
    languages = ", ".join(f"{name} {count}" for name, count in record["languages"].items())
    print(
        "{out}: speech of {with_speech} of {videos} videos, {sentences:,} sentences, in "
        "{seconds:.0f} s".format(**record) + (f" ({languages})" if languages else "")
    )
    if record["already"]:
        print(f"{record['already']} were done before")
    if record["with_subtitles"]:
        print(f"{record['with_subtitles']} by the subtitles beside them")
    show_failures(record, "video", "; --json lists them")
    if record["failed"]:
        print(f"{record['failed']} failed; correct the cause and run it again with --retry-failed")
    if record["absent"]:
        print(f"{record['absent']} are not done: run the same command again")


def main(argv: list[str] | None = None) -> int:
    return parse(
        TranscribeOptions,
        argv,
        "stepdiff.annotate.transcribe",
        __doc__,
        run,
        show,
        positional=("videos",),
        status=incomplete,
    )


if __name__ == "__main__":
    command.run(main, HINT)
