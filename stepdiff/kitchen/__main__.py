"""Render the kitchen world.

stepdiff kitchen --out data/kitchen                   # 264 videos, about 1,190 clips
stepdiff kitchen --out /tmp/tiny --videos 12          # a tiny world, in seconds
"""

import json
import multiprocessing
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepdiff_core.cli import command
from stepdiff_core.cli.options import WRITTEN, parse
from stepdiff_core.errors import StepDiffError
from stepdiff_core.progress import Advance, progress
from stepdiff_core.threads import cores

if TYPE_CHECKING:
    from stepdiff.kitchen.world import Video

FORMAT = 8
"""Version of the files, which changes if the same options give other bytes than before."""


@dataclass(frozen=True)
class KitchenOptions:
    """Render the sample world: videos, texts, test sets and their ground truth."""

    out: Path = field(metadata=WRITTEN)
    """Folder to write into; made if it does not exist. Complete videos in it are kept."""
    videos: int = 264
    """Number of videos, each with 3 to 6 clips."""
    steps: int = 12
    """Number of steps that the videos show, 3 to 12: fewer steps, more clips of each."""
    seed: int = 0
    """Seed of all random choices."""
    seconds: float = 3.5
    """Mean length of a clip in seconds, at least 2."""
    fps: int = 12
    """Frames a second, a multiple of 4."""
    processes: int = 0
    """Processes that draw at the same time; 0 means one a core, at most 8."""
    speech: bool = False
    """Give the videos a sound track with their narration, by espeak-ng. Needs --seconds 20 or more,
    as people speak slower than the sample world's narration is long."""
    noise: float | None = None
    """Decibels by which the speech is louder than the noise of a kitchen; null: no noise."""


def run(options: KitchenOptions) -> dict[str, Any]:
    """Render missing videos and write all files. StepDiffError: unusable options, or another world
    in the folder."""
    from stepdiff.kitchen.drawing.video import montage, render
    from stepdiff.kitchen.drawing.voice import Voice
    from stepdiff.kitchen.files.write import write_files
    from stepdiff.kitchen.steps import STEPS
    from stepdiff.kitchen.world import FEWEST, make_world
    from stepdiff_core.io.files import refuse_url, whole

    if options.videos < 1 or options.seconds < 2 or options.processes < 0:
        raise StepDiffError(
            "--videos must be 1 or more, --seconds 2 or more, --processes 0 or more"
        )
    if options.fps < 4 or options.fps % 4:
        raise StepDiffError(
            f"--fps {options.fps}: give a multiple of 4, as clips begin and end "
            "on quarters of a second"
        )
    if not FEWEST <= options.steps <= len(STEPS):
        raise StepDiffError(
            f"--steps {options.steps}: the kitchen has {len(STEPS)}, and a video shows at least "
            f"{FEWEST}"
        )
    if options.noise is not None and not options.speech:
        raise StepDiffError("--noise is of a sound track: give --speech too")
    if options.speech and options.seconds < 20:
        raise StepDiffError(
            f"--speech with --seconds {options.seconds:g}: give 20 or more, as the narration of a "
            "shorter clip cannot be spoken in its time"
        )
    if options.speech and shutil.which("espeak-ng") is None:
        raise StepDiffError("--speech needs espeak-ng: install it (apt-get install espeak-ng)")
    started = time.monotonic()
    out = options.out
    refuse_url("--out", str(out))
    _claim(options)
    world = make_world(options.videos, options.seed, options.seconds, options.steps)
    missing = [v for v in world if not (out / "videos" / f"{v.uid}.mp4").is_file()]
    voice = Voice(options.seed, options.noise) if options.speech else None
    draw = partial(render, out=out, fps=options.fps, voice=voice)
    workers = options.processes or min(8, cores())
    with progress("videos rendered", len(missing)) as advance:
        if missing and (workers == 1 or len(missing) == 1):
            for video in missing:
                draw(video)
                advance(1)
        elif missing:
            _render_all(missing, draw, min(workers, len(missing)), advance)
    rows = write_files(world, options.seed, out)
    picture = out / "four_clips.png"
    with whole(picture) as temporary, temporary.open("wb") as file:
        montage(world).save(file, "PNG")
    return {
        "out": str(out),
        "videos": len(world),
        "rendered": len(missing),
        "clips": rows["clips.csv"],
        "rows": rows,
        "picture": str(picture),
        "seconds": round(time.monotonic() - started, 2),
    }


def _render_all(
    videos: list["Video"], draw: Callable[["Video"], int], workers: int, advance: Advance
) -> None:
    """Render in processes that ignore an interrupt of the terminal: this process ends them."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context)
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the processes inherit it
        try:
            rendering = [pool.submit(draw, video) for video in videos]
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        for done in as_completed(rendering):
            done.result()
            advance(1)
    except BaseException:  # also an interrupt: videos in progress are not needed
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _claim(options: KitchenOptions) -> None:
    """Record the options in the folder. StepDiffError: it contains another world, or other
    files."""
    from stepdiff_core.io.files import write_text

    out = options.out
    ours: dict[str, object] = {"format": FORMAT}
    ours |= {name: getattr(options, name) for name in ("videos", "steps", "seed", "seconds", "fps")}
    if options.speech:
        ours |= {"speech": True, "noise": options.noise}
    stamp = out / "world.json"
    try:
        for folder in (out, out / "videos", out / "images"):
            folder.mkdir(parents=True, exist_ok=True)
        if not stamp.exists():
            if any(path.is_file() for path in out.rglob("*") if not path.name.startswith(".")):
                raise StepDiffError(f"{out}: holds files but no world.json; choose another --out")
            write_text(stamp, json.dumps(ours) + "\n")
            return
        theirs = json.loads(stamp.read_text(encoding="utf-8"))
    except OSError as error:
        raise StepDiffError(
            f"{out}: cannot be written ({error.strerror}); choose another --out"
        ) from error
    except ValueError as error:
        raise StepDiffError(
            f"{stamp}: not readable as JSON; remove the folder and run again"
        ) from error
    if theirs != ours:
        old = theirs if isinstance(theirs, dict) else {}
        ours = dict.fromkeys(old) | ours
        words = [f"{k} {old.get(k)} not {v}" for k, v in ours.items() if old.get(k) != v]
        raise StepDiffError(
            f"{out}: holds a world made with other options ({', '.join(words)}); "
            "choose another --out or remove that folder"
        )


def show(summary: dict[str, Any]) -> None:
    """Print the number of rendered videos and the rows of each file."""
    print(
        f"{summary['out']}: {summary['videos']} videos, {summary['clips']} clips, "
        f"{summary['rendered']} rendered now, {summary['seconds']} s"
    )
    for name, count in sorted(summary["rows"].items()):
        print(f"  {name:<22} {count:>6}")
    print(f"four of the clips in one picture: {summary['picture']}")


def main(argv: list[str] | None = None) -> int:
    return parse(KitchenOptions, argv, "stepdiff.kitchen", __doc__, run, show)


if __name__ == "__main__":
    command.run(main, "what is finished stays, run the same command for the rest")
