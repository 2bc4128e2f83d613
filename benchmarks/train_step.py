"""A training step from cached tokens, next to the same step from raw video and with its batch already in memory.

python -m benchmarks.train_step                                     # the kitchen's StepDiff recipe, about ten minutes
python -m benchmarks.train_step --videos 6 --steps 1 --rounds 1     # a first look

All three train the same model on the same pairs. From the store, a step draws its batch, reads the clips' tokens and
trains; from raw video, it decodes the clips and runs the frozen encoder in the place of reading; in memory, batch and
tokens are there before the clock starts. What the first adds to the third is what the loader costs. Files are in the
page cache. The ways take turns, and medians over rounds count.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.harness.report import Row, benchmark, line, measured
from stepdiff.common.cli import command

if TYPE_CHECKING:
    import polars as pl
    import torch
    from jaxtyping import Float32
    from torch import Tensor

    from featurize.encoders import Encoder
    from featurize.video.decode import Source
    from heads.data.clips import Reads
    from heads.training.recipe import VideoLMRecipe
    from heads.training.sources import Batch
    from store import Store

RECIPE = Path(__file__).parents[1] / "heads/recipes/kitchen/stepdiff.yaml"
ENCODER = "efficientnet-lite0"
LOADER = 0.05  # of a step, what it may add
BATCH = 4  # clips that are encoded at once when the store is filled


@dataclass(frozen=True)
class Options:
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


class RawVideo:
    """Tokens of clips, decoded and encoded at each call."""

    def __init__(self, clips: "dict[str, Source]", encoder: "Encoder") -> None:
        self.clips, self.encoder = clips, encoder

    def read(self, keys: Sequence[str], device: "str | torch.device" = "cpu") -> "Float32[Tensor, 'K N D']":
        """Return the tokens of the clips, as the encoder makes them."""
        import torch

        from featurize.video.decode import Clip, decoded_clips

        asked = {place: self.clips[key] for place, key in enumerate(keys)}
        found = dict(decoded_clips(asked, self.encoder.frames, self.encoder.picture, torch.get_num_threads()))
        clips = [found[place] for place in asked]
        frames = np.stack([clip.frames for clip in clips if isinstance(clip, Clip)])
        return torch.from_numpy(self.encoder.encode_clips(frames)["tokens"]).to(device).float()


class World:
    """A small sample world and a store with the tokens of its training clips; made once in a folder."""

    def __init__(self, folder: Path, videos: int, device: str) -> None:
        import polars as pl

        from featurize.encoders import load
        from featurize.video.decode import Source
        from stepdiff.kitchen.__main__ import Options as KitchenOptions
        from stepdiff.kitchen.__main__ import run as render

        self.folder = folder / f"kitchen_{videos}"
        render(KitchenOptions(self.folder, videos=videos))
        self.pairqa = self.folder / "pairqa_train.jsonl"
        table = pl.read_csv(self.folder / "clips.csv").filter(split="train")
        clips = {
            row["clip"]: Source(str(self.folder / row["video"]), row["start"], row["end"])
            for row in table.iter_rows(named=True)
        }
        self.raw = RawVideo(clips, load(ENCODER, None, device))
        self.store = self._featurized(table)

    def _featurized(self, table: "pl.DataFrame") -> "Store":
        import torch

        from store import Store

        encoder, keys = self.raw.encoder, table["clip"].to_list()
        store = Store.open(self.folder / "features", create=True)
        with store.lock():
            if not len(store.catalog("clips")):
                store.catalog("clips").append(table.select(key="clip", split="split"))
            shape = {"tokens": encoder.features("clips")["tokens"]}
            view = store.create_view("clips", ENCODER, encoder.provenance("clips"), shape, rows_per_shard=1024)
            view.resize()
            if (view.status() != 1).any():
                parts = [self.raw.read(keys[start : start + BATCH]) for start in range(0, len(keys), BATCH)]
                view.write_shard(0, np.arange(len(keys)), {"tokens": torch.cat(parts).numpy()}, {})
        return store


class Training:
    """The recipe's model in training, on the pairs of a world."""

    def __init__(self, world: World, recipe: "VideoLMRecipe", device: str) -> None:
        import torch

        from heads.data.clips import Features
        from heads.data.paired_qa import read_paired_qa
        from heads.training.sources import PairedSource
        from heads.training.video_task import build

        self.recipe, self.device = recipe, device
        self.features = Features(world.store, recipe.view, "tokens")
        self.raw = world.raw
        self.model = build(recipe, self.features, 0, device)
        pairs = read_paired_qa(str(world.pairqa), world.store.catalog("clips"))
        self.source = PairedSource(recipe, pairs, self.model.lm.chat, self.model.lm.packs, 0, None)
        self.optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=1e-5)

    def load(self, number: int, features: "Reads") -> "tuple[Batch, Tensor]":
        """Return a batch and the tokens of its clips."""
        batch = self.source.batch(number)
        return batch, features.read(batch.clips, self.device)

    def step(self, batch: "Batch", tokens: "Tensor") -> None:
        """Train on a batch."""
        import torch

        from heads.models.language_model import autocast
        from heads.training.video_task import answer_loss

        self.model.train()
        self.optimizer.zero_grad()
        with autocast(self.device, self.recipe.precision):
            loss = answer_loss(self.model, batch.rows, tokens)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], 1.0)
        self.optimizer.step()
        loss.item()  # on a GPU the clock waits for it


def steps(way: Callable[[int], object], count: int) -> None:
    """Do the first `count` steps in one way."""
    for number in range(count):
        way(number)


def run(options: Options) -> dict[str, Any]:
    """Return rows and lines."""
    from heads.training.recipe import read_recipe

    world = World(options.folder.absolute(), options.videos, options.device)
    made = read_recipe(RECIPE).video_lm
    assert made is not None
    language_model = options.language_model or made.language_model
    recipe = replace(made, language_model=language_model)
    training = Training(world, recipe, options.device)
    memory = [training.load(number, training.features) for number in range(options.steps)]
    ways: dict[str, Callable[[int], object]] = {
        "batch in memory": lambda number: training.step(*memory[number]),
        "from the store": lambda number: training.step(*training.load(number, training.features)),
        "from raw video": lambda number: training.step(*training.load(number, training.raw)),
        "loader alone": lambda number: training.load(number, training.features),
    }
    for way in ways.values():
        way(0)  # to warm up
    seconds = measured({name: partial(steps, way, options.steps) for name, way in ways.items()}, options.rounds)
    memory_s, store_s, raw_s, loader_s = seconds.values()
    rows: list[Row] = [
        {
            "step": name,
            "ms a step": round(1000 * own.clock / options.steps, 1),
            "CPU ms a step": round(1000 * own.cpu / options.steps, 1),
            "of a step in memory": round(own.clock / memory_s.clock, 4),
            "by CPU time": round(own.cpu / memory_s.cpu, 4),
        }
        for name, own in seconds.items()
    ]
    least, allowed = round(1 / (1 + LOADER), 3), f"{LOADER:.0%} of a step in memory"
    lines = [
        line("a step from the store", memory_s.clock, store_s.clock, least, "the speed of one in memory"),
        line("the loader alone", LOADER * memory_s.clock, loader_s.clock, 1.0, allowed),
        line("the loader alone, CPU time", LOADER * memory_s.cpu, loader_s.cpu, 1.0, allowed),
        line("a step from the store", raw_s.clock, store_s.clock, 1.0, "the speed of one from raw video"),
    ]
    facts = {"device": options.device, "steps": options.steps, "rounds": options.rounds}
    return {"rows": rows, "lines": lines, **facts}


main = benchmark("train_step", Options, __doc__, run)

if __name__ == "__main__":
    command.run(main)
