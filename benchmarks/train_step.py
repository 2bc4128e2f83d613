"""A training step from cached tokens, next to the same step from raw video and with its batch
already in memory.

python -m benchmarks.train_step    # the kitchen's StepDiff recipe, about ten minutes
python -m benchmarks.train_step --videos 6 --steps 1 --rounds 1    # a first look

All three train the same model on the same pairs. From the store, a step draws its batch, reads the
clips' tokens and trains; the peer, from raw video, decodes the clips and runs the frozen encoder in
the place of reading; the ceiling has batch and tokens in memory before the clock starts. What the
first adds to the ceiling is what the loader costs. Files are in the page cache. The ways take
turns, and medians over rounds count.

Of the step with its batch in memory it also prints tokens a second, memory, and its FLOP a second
(counted by PyTorch) as a share of those of a large matrix product on the same device, and of the
peak of a card that `heads.train` knows.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import benchmark, measured, race, render_kitchen, times
from featurize.encoders import load
from featurize.video.decode import Clip, Source, decoded_clips
from heads.data.clips import Features, Reads
from heads.data.paired_qa import read_paired_qa
from heads.models.language_model import autocast
from heads.planning.plan import CARDS
from heads.training.log import ReadCounts, speed
from heads.training.recipe import VideoLMRecipe, read_recipe
from heads.training.sources import PairedSource, TrainingBatch
from heads.training.video_task import answer_loss, build
from stepdiff_core.cli import command
from store import Store

RECIPE = Path(__file__).parents[1] / "heads/recipes/kitchen/stepdiff.yaml"
ENCODER = "efficientnet-lite0"
LOADER = 0.05  # of a step, what it may add
AT_ONCE = 4  # clips that are encoded at once when the store is filled
# of the figures that a training logs
LOGGED = "tokens_per_second", "peak_memory_gb", "peak_gpu_memory_gb"
PRODUCT, PRODUCTS = 2048, 5  # side of the matrices of a product, and how many of them


@dataclass(frozen=True)
class TrainStepBenchmarkOptions:
    videos: int = 32
    """videos of the sample world that is rendered and featurized for it"""
    steps: int = 6
    """steps of a measurement"""
    rounds: int = 5
    """measurements of each way, whose median counts"""
    language_model: str | None = None
    """another one than the recipe's: name, folder or hub id"""
    device: str = "cpu"
    """cpu or cuda"""
    folder: Path = Path("data/bench")
    """where the world is made and stays"""


class World:
    """A small sample world and a store with the tokens of its training clips, made once in a
    folder; and its videos."""

    def __init__(self, folder: Path, videos: int, device: str) -> None:
        world, clips = render_kitchen(folder, videos)
        rows = clips.filter(split="train").select("clip", "video", "start", "end").iter_rows()
        self.sources = {clip: Source(*place) for clip, *place in rows}
        self.pairqa = world / "pairqa_train.jsonl"
        self.encoder = load(ENCODER, None, device)
        self.store = Store.open(world / "features", create=True)
        features = {"tokens": self.encoder.features("clips")["tokens"]}
        with self.store.writer(
            "clips", ENCODER, self.encoder.provenance("clips"), features
        ) as writer:
            missing = writer.missing(list(self.sources))
            for start in range(0, len(missing), AT_ONCE):
                keys = missing[start : start + AT_ONCE]
                writer.write(
                    pl.DataFrame({"key": keys, "split": "train"}),
                    {"tokens": self.read(keys).numpy()},
                )

    def read(self, keys: Sequence[str], device: str | torch.device = "cpu") -> Tensor:
        """Decode and encode clips; return their tokens [K, N, D], as `heads.data.clips.Features`
        reads them."""
        sources = {place: self.sources[key] for place, key in enumerate(keys)}
        decoded = dict(
            decoded_clips(
                sources, self.encoder.frames, self.encoder.picture, torch.get_num_threads()
            )
        )
        clips = [decoded[place] for place in sources]
        frames = np.stack([clip.frames for clip in clips if isinstance(clip, Clip)])
        return torch.from_numpy(self.encoder.encode_clips(frames)["tokens"]).to(device).float()


class Training:
    """The recipe's model in training, on the pairs of a world."""

    def __init__(self, world: World, recipe: VideoLMRecipe, device: str) -> None:
        self.recipe, self.device = recipe, device
        self.features = Features(world.store, recipe.view, "tokens")
        self.model = build(recipe, self.features, 0, device)
        pairs = read_paired_qa(str(world.pairqa), world.store.catalog("clips"))
        self.source = PairedSource(recipe, pairs, self.model.lm.chat, self.model.lm.packs, 0, None)
        self.optimizer = torch.optim.AdamW(
            [p for p in self.model.parameters() if p.requires_grad], lr=1e-5
        )

    def load(self, number: int, features: Reads) -> tuple[TrainingBatch, Tensor]:
        """Return a batch and the tokens of its clips."""
        batch = self.source.batch(number)
        return batch, features.read(batch.clips, self.device)

    def step(self, batch: TrainingBatch, tokens: Tensor) -> None:
        """Train on a batch."""
        self.model.train()
        self.optimizer.zero_grad()
        with autocast(self.device, self.recipe.precision):
            loss = answer_loss(self.model, batch.rows, tokens)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(
            [p for g in self.optimizer.param_groups for p in g["params"]], 1.0
        )
        self.optimizer.step()
        loss.item()  # on a GPU the clock waits for it


def product_rate(device: str, precision: str) -> float:
    """Return the FLOP per second of a product of square matrices, the best of some."""
    given = torch.randn(PRODUCT, PRODUCT, device=device)
    best = math.inf
    for _ in range(PRODUCTS):
        begin = time.perf_counter()
        with autocast(device, precision):
            (given @ given)[0, 0].item()  # on a GPU the clock waits for it
        best = min(best, time.perf_counter() - begin)
    return 2 * PRODUCT**3 / best


def rates(
    training: Training, batches: Sequence[tuple[TrainingBatch, Tensor]], seconds: float
) -> dict[str, Any]:
    """Return what the device does in a step; seconds: of all batches."""
    counter, device = FlopCounterMode(display=False), training.device
    with counter:
        for batch, tokens in batches:
            training.step(batch, tokens)
    flops, precision = counter.get_total_flops() / seconds, training.recipe.precision
    logged = speed(ReadCounts(tokens=sum(batch.rows.tokens for batch, _ in batches)), seconds)
    record: dict[str, Any] = {name: round(logged[name], 2) for name in LOGGED if name in logged}
    record["gflop_per_second"] = round(flops / 1e9, 1)
    record["share_of_a_matrix_product"] = round(flops / product_rate(device, precision), 3)
    if device.startswith("cuda"):
        record["card"] = torch.cuda.get_device_name(device)
        plain = record["card"].lower().replace(" ", "")
        card = next((card for known, card in CARDS.items() if known.split("-")[0] in plain), None)
        if card is not None:
            record["share_of_peak"] = round(
                flops / (card.float32 if precision == "float32" else card.bfloat16), 3
            )
    return record


def run(options: TrainStepBenchmarkOptions) -> dict[str, Any]:
    """Return the record."""
    world = World(options.folder.absolute(), options.videos, options.device)
    recipe = read_recipe(RECIPE).video_lm
    assert recipe is not None
    recipe = replace(recipe, language_model=options.language_model or recipe.language_model)
    training = Training(world, recipe, options.device)
    stored = training.features
    batches = [training.load(number, stored) for number in range(options.steps)]
    ways: dict[str, Callable[[int], object]] = {
        "batch in memory": lambda number: training.step(*batches[number]),
        "from the store": lambda number: training.step(*training.load(number, stored)),
        "from raw video": lambda number: training.step(*training.load(number, world)),
        "loader alone": lambda number: training.load(number, stored),
    }

    def steps(way: Callable[[int], object]) -> None:
        for number in range(options.steps):
            way(number)

    seconds = measured({name: partial(steps, way) for name, way in ways.items()}, options.rounds)
    memory, from_store, raw, loader = seconds.values()
    allowed = f"{LOADER:.0%} of a step in memory"
    races = [
        race(
            "a step from the store",
            memory.clock,
            from_store.clock,
            round(1 / (1 + LOADER), 3),
            "one in memory",
        ),
        race("the loader alone", LOADER * memory.clock, loader.clock, 1.0, allowed),
        race("the loader alone, CPU time", LOADER * memory.cpu, loader.cpu, 1.0, allowed),
        race("a step from the store", raw.clock, from_store.clock, 1.0, "one from raw video"),
    ]
    facts = {"device": options.device, "steps": options.steps, "rounds": options.rounds}
    facts |= rates(training, batches, memory.clock)
    return {"rows": times(seconds, options.steps, "step"), "races": races, **facts}


main = benchmark("train_step", TrainStepBenchmarkOptions, __doc__, run)

if __name__ == "__main__":
    command.run(main)
