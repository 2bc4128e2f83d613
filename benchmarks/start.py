"""From the shell to the first clip, and to all of 40 short clips: a fresh store next to a loop of
one's own.

python -m benchmarks.start                                      # minutes, and 600 MB of random
                                                                weights
python -m benchmarks.start --weights openai/clip-vit-base-patch32
python -m benchmarks.start --clips 4 --rounds 1                 # a first look

The loop is the script of docs/guides/alternatives.md: transformers and PyAV into a .npy file, or
into LanceDB with a search. Every run is a new process in an empty folder; runs of one clip warm up
the others. All see the same eight frames of the same clips with the same CLIP, on the same cores,
with as many threads of PyTorch as cores. featurize also stores the tokens of every frame. The
weights are in the page cache, and their digest is known from an earlier run. Times are not reported
unless the vectors agree: none may be off by more than TOLERANCE of the mean distance of a clip from
the mean of all.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np

from benchmarks.harness import Row, benchmark, measured, race, races, render_kitchen, times
from stepdiff_core.cli import command
from stepdiff_core.cli.options import at_least
from stepdiff_core.errors import StepDiffError
from stepdiff_core.threads import cores
from store import Store

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs/guides/alternatives.md"
CLIPS_A_VIDEO = 3
TOLERANCE = 0.01
WANTED = round(1 / 1.2, 3)  # of the loop's speed
OURS, QUERY, LOOP, LANCE = (
    "featurize",
    "retrieval query",
    "transformers, .npy",
    "transformers, LanceDB",
)
FOLDERS = {OURS: "ours", QUERY: "ours", LOOP: "loop", LANCE: "lance"}


@dataclass(frozen=True)
class StartBenchmarkOptions:
    clips: int = 40
    """clips of the longer runs"""
    weights: str | None = None
    """a CLIP of transformers, a folder or hub id; by default ViT-B/32 with random weights"""
    threads: int | None = None
    """cores to use, and threads of PyTorch; by default all"""
    rounds: int = 3
    """measurements of each, whose median counts"""
    folder: Path = Path("data/bench")
    """where videos and weights are made and stay"""


def scripts() -> tuple[str, str]:
    """Return the loop of the guide, and the same with LanceDB."""
    loop, search = re.findall(
        r"^```py\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    return loop, f"{loop}\n{search}"


def random_clip(folder: Path) -> str:
    """Write CLIP ViT-B/32 with random weights and its image processor, if they are not there;
    return their folder."""
    weights = folder / "clip_vit_b32"
    if not (weights / "preprocessor_config.json").exists():
        import torch
        from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

        torch.manual_seed(0)
        CLIPModel(CLIPConfig()).save_pretrained(weights)
        CLIPImageProcessor().save_pretrained(weights)
    return str(weights)


def ways(folder: Path, manifest: Path, clip: str, weights: str) -> dict[str, Callable[[], None]]:
    """Return every way to encode the clips of a manifest, in a folder each, and the search of the
    store for a clip."""
    loop, lance = folder / "loop.py", folder / "lance.py"
    for file, text in zip((loop, lance), scripts(), strict=True):
        file.write_text(text, encoding="utf-8")
    view = ["--encoder", "clip", "--weights", weights]
    commands = {
        OURS: [
            "-m",
            "featurize",
            "--manifest",
            str(manifest),
            "--store",
            "features",
            *view,
            "--workers",
            "0",
        ],
        QUERY: [
            "-m",
            "retrieval",
            "query",
            "--store",
            "features",
            "--view",
            "clip",
            "--clip",
            clip,
            "-k",
            "5",
        ],
        LOOP: [str(loop), str(manifest), weights],
        LANCE: [str(lance), str(manifest), weights],
    }
    return {
        name: partial(started, words, folder / FOLDERS[name]) for name, words in commands.items()
    }


def started(words: list[str], folder: Path) -> None:
    """Run Python with these words in a folder. StepDiffError: it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise StepDiffError(
            f"python {' '.join(words)} failed: {done.stderr.strip().rpartition(chr(10))[2]}"
        )


def apart(folder: Path, keys: list[str]) -> float:
    """Return how far vectors of the loop are from those of the store at most, in mean distances
    from their mean."""
    theirs = np.load(folder / FOLDERS[LOOP] / "vectors.npy")
    ours = (
        Store.open(folder / FOLDERS[OURS] / "features")
        .view("clips", "clip")
        .read("embedding", keys=keys)
    )
    spread = np.linalg.norm(ours - ours.mean(0), axis=1).mean()
    return float(np.linalg.norm(ours - theirs, axis=1).max() / spread)


def run(options: StartBenchmarkOptions) -> dict[str, Any]:
    """Return the record."""
    at_least(options, clips=2, threads=1, rounds=1)
    threads = options.threads or cores()
    # of the processes to come, too
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    os.environ["OMP_NUM_THREADS"] = str(threads)
    options.folder.mkdir(parents=True, exist_ok=True)
    folder = options.folder.absolute()
    weights = options.weights or random_clip(folder)
    if Path(weights).exists():
        weights = str(Path(weights).absolute())  # every way runs in a folder of its own
    _, clips = render_kitchen(folder, -(-options.clips // CLIPS_A_VIDEO) + 2)
    clips = clips.head(options.clips).select("clip", "video", "start", "end")
    keys, rows, held = clips["clip"].to_list(), list[Row](), list[Row]()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:

        def clear(way: str) -> None:
            if way != QUERY:
                rmtree(Path(scratch, FOLDERS[way]), ignore_errors=True)
                Path(scratch, FOLDERS[way]).mkdir()

        manifest = Path(scratch, "clips.csv")
        for count in (1, options.clips):
            clips.head(count).write_csv(manifest)
            every = ways(Path(scratch), manifest, keys[0], weights)
            case, wanted = (f"{count} clips", WANTED) if count > 1 else ("first clip", None)
            seconds = measured(every, options.rounds, f"{case}, ", before=clear, warm_up=count == 1)
            rows += times(seconds, 1, "run", clips=count)
            ours, query, lance = (seconds[name].clock for name in (OURS, QUERY, LANCE))
            held += races(case, seconds, OURS, {LOOP: wanted})
            held.append(race(f"{case}, with search", lance, ours + query, wanted, LANCE))
        difference = apart(Path(scratch), keys)
    if not difference <= TOLERANCE:
        raise StepDiffError(
            f"vectors are {difference:.3g} apart, more than {TOLERANCE}: the times are not "
            "comparable"
        )
    facts = {"weights": weights, "threads": threads, "vectors_apart": difference}
    return {"rows": rows, "races": held, **facts}


main = benchmark("start", StartBenchmarkOptions, __doc__, run)

if __name__ == "__main__":
    command.run(main)
