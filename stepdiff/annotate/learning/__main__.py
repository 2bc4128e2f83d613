"""stepdiff learn FOLDER --out runs/mine
stepdiff compare mine.mp4 expert.mp4 --model runs/mine

Learns the words of your own videos from what is said in them: transcribes them, cuts them into
clips by sentences and pauses, computes features, and fits a head of words. One video in five does
not train: its clips tell how often the head is right. OUT/learned.html shows what it understood.
The same command again computes only what is new.
"""

import csv
import io
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from stepdiff.annotate.stages.job import SHOWN, show_failures
from stepdiff.annotate.transcribe import SpeechOptions
from stepdiff_core.cli import command
from stepdiff_core.cli.options import incomplete, parse
from stepdiff_core.errors import StepDiffError

FEWEST = 3  # videos with speech: one is held out, and evidence of a clip comes from other videos
PAUSE = 1.5  # seconds of silence that end a clip
SECONDS = (2.0, 8.0, 30.0)  # of a clip: at least, from which a sentence ends it, and at most
_HELD_OUT = 5  # one video in so many
_SPEECH, _CLIP = 4.0, 0.4
"""seconds of video that a core transcribes in a second, and core-seconds for the features of a
clip: measured, for the plan"""


@dataclass(frozen=True, kw_only=True)
class LearnOptions(SpeechOptions):
    out: str = field(metadata={"written": ("/learned.html",)})
    """folder of the head, which stepdiff compare --model reads"""
    encoder: str = "efficientnet-lite0"
    """encoder of the clips, as of featurize"""
    least: int = 8
    """clips that name a word before it counts"""


class SpokenClip(NamedTuple):
    video: str
    start: float  # seconds
    end: float
    text: str

    @property
    def key(self) -> str:
        return f"{self.video}_{self.start:.2f}_{self.end:.2f}"


def run(options: LearnOptions) -> dict[str, Any]:
    """Learn a head of words.

    StepDiffError: as of the stages, or there is too little speech to learn from.
    """
    from featurize.job import requested
    from featurize.job import run as featurize
    from featurize.options import Options
    from heads import words
    from stepdiff.annotate import transcribe
    from stepdiff.annotate.learning.understanding import understand, write_page
    from stepdiff.annotate.sources.narration import spoken_videos
    from stepdiff.annotate.stages.stage import asked_device
    from stepdiff_core.io.files import make_folder, write_text
    from stepdiff_core.progress import say
    from stepdiff_core.threads import cores

    began = time.monotonic()
    out = Path(options.out).expanduser()
    files = transcribe.named(options.videos)
    seconds = sum(map(transcribe.seconds_of, files.values()))
    speech, features = seconds / _SPEECH / cores(), seconds / SECONDS[1] * _CLIP / cores()
    say(
        f"plan: {len(files)} videos, {seconds / 60:.0f} minutes. On {cores()} CPU cores: speech "
        f"about {speech / 60:.1f} min, features about {features / 60:.1f} min, words under a "
        "minute; what is there already takes no time"
    )
    make_folder(out)
    narration = out / "narration.json"
    shared = {each.name: getattr(options, each.name) for each in fields(SpeechOptions)}
    heard = transcribe.run(transcribe.TranscribeOptions(**shared | {"out": str(narration)}))
    if heard["with_speech"] < FEWEST:
        reasons = "; ".join("{video}: {reason}".format(**each) for each in heard["failures"][:2])
        raise StepDiffError(
            f"{heard['with_speech']} of {len(files)} videos have speech: give {FEWEST} or more "
            f"that are spoken over{f' ({reasons})' if reasons else ''}"
        )
    clips = [
        clip
        for video, pieces in spoken_videos(narration, Counter())
        for clip in spoken_clips(video, pieces)
    ]
    tests = held_out(sorted({clip.video for clip in clips}))
    write_text(out / "clips.csv", _manifest(clips, files, tests))
    store, view = str(out / "features"), "learn"
    of_features = Options(
        store=store,
        encoder=options.encoder,
        manifest=str(out / "clips.csv"),
        view=view,
        statistics="add" if options.encoder == "efficientnet-lite0" else None,
        retry_failed=options.retry_failed,
        replace=True,
        workers=options.workers,
        device=asked_device(options),
        address=options.address,
    )
    made = featurize(of_features, requested(of_features))
    for line in made.lines():
        say(line)
    head = words.run(
        words.WordOptions(store=store, view=view, out=str(out), least=options.least)
    )
    failed = {each["key"] for each in made.failures}
    usable = [clip for clip in clips if clip.key not in failed]
    learned = understand(str(out), store, usable, tests, options.least)
    page = out / "learned.html"
    write_page(page, learned, files)
    return {
        "out": options.out,
        "page": str(page),
        "videos": len(files),
        "with_speech": heard["with_speech"],
        "held_out": sorted(tests),
        "clips": len(clips),
        "terms": head["terms"],
        **learned.record(),
        "failed": heard["failed"] + made.failed,
        "absent": heard["absent"] + made.absent,
        "allowed": options.allow_failed,
        "failures": heard["failures"]
        + [{"video": each["key"], "reason": each["reason"]} for each in made.failures],
        "seconds": round(time.monotonic() - began, 1),
    }


def spoken_clips(video: str, pieces: Sequence[Any]) -> list[SpokenClip]:
    """Return the clips of a video: sentences up to a pause, or until they are long enough.

    pieces: SpeechPiece of the video, by time.
    """
    least, enough, most = SECONDS
    groups: list[list[Any]] = []
    for piece in pieces:
        last = groups[-1] if groups else []
        if (
            not last
            or piece.start - last[-1].end >= PAUSE
            or last[-1].end - last[0].start >= enough
            or piece.end - last[0].start > most
        ):
            groups.append([piece])
        else:
            last.append(piece)
    clips = []
    for group in groups:
        start = group[0].start
        end = min(max(max(piece.end for piece in group), start + least), start + most)
        clips.append(SpokenClip(video, start, end, " ".join(piece.text for piece in group)))
    return clips


def held_out(videos: Sequence[str]) -> set[str]:
    """Return one video in _HELD_OUT, at least one, by a hash of their names."""
    from hashlib import sha256

    order = sorted(videos, key=lambda video: sha256(video.encode()).hexdigest())
    return set(order[: max(len(videos) // _HELD_OUT, 1)])


def _manifest(clips: Sequence[SpokenClip], files: dict[str, Path], tests: set[str]) -> str:
    buffer = io.StringIO()
    table = csv.writer(buffer, lineterminator="\n")
    table.writerow(("clip", "video", "start", "end", "split", "narration"))
    for clip in clips:
        split = "test" if clip.video in tests else "train"
        path = files[clip.video]
        table.writerow((clip.key, path, f"{clip.start:.2f}", f"{clip.end:.2f}", split, clip.text))
    return buffer.getvalue()


def show(record: dict[str, Any]) -> None:
    print(
        "{out}: {terms:,} words and phrases from {clips:,} clips of {with_speech} videos, in "
        "{seconds:.0f} s".format(**record)
    )
    right, count = record["right"], record["compared"]
    if count:
        low, high = record["interval"]
        print(
            f"held out: {len(record['held_out'])} videos. Words of a clip against those of "
            f"another: right in {right:.0%} ({count} clips, 95% interval {low:.0%} to {high:.0%}; "
            "chance 50%)"
        )
        if low <= 0.5:
            print("that is not above chance: the head knows too little yet; give more videos")
    else:
        print("held out: no clip names a word that the head knows; give more videos")
    for word, clips in record["rare"][:SHOWN]:
        print(f"  {clips} clips name {word!r}; {record['least']} are needed before it counts")
    show_failures(record, "video", "; --json lists them")
    print(f"what it understood: {record['page']}")
    print(f"compare two videos: stepdiff compare ONE OTHER --model {record['out']}")


def main(argv: list[str] | None = None) -> int:
    return parse(
        LearnOptions,
        argv,
        "stepdiff.learn",
        __doc__,
        run,
        show,
        positional=("videos",),
        status=incomplete,
    )


if __name__ == "__main__":
    command.run(main, "what is finished stays; run the same command for the rest")
