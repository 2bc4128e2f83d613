"""Write a contrastive head's embeddings of all clips and texts as a view of the store.

python -m heads.embed --head runs/align --store data/features --view aligned

Retrieval and vlemb read that view as they read a frozen encoder's. A second run adds only what is
missing.

    --workers 4                          four processes, on this machine or with --address on a
                                         cluster

The embeddings are the same, bit for bit, whatever the number of workers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heads.evidence import UNLIKE
from stepdiff_core.cli import command
from stepdiff_core.cli.options import at_least, parse

if TYPE_CHECKING:
    from stepdiff_core.workers.pool import WorkPart
    from store.view import View

BLOCK = 256
"""rows embedded at a time"""
PART = 16 * BLOCK
"""rows of a shard that one worker embeds and commits; whole blocks, so that parts have the blocks
of the shard"""


@dataclass(frozen=True)
class EmbedOptions:
    head: str
    """run folder of a contrastive head"""
    store: str
    """feature store"""
    view: str = "aligned"
    """name of the view to write, for clips and for texts"""
    device: str = "auto"
    """auto, cpu, cuda"""
    wait: bool = False
    """wait while another run writes into the store, instead of giving up"""
    workers: int = 1
    """processes that embed, each with its own head; 1 without an address: this process, without
    Ray"""
    address: str | None = None
    """Ray cluster to join, auto or HOST:6379; null: RAY_ADDRESS, else Ray is started on this
    machine"""


class Embedder:
    """A loaded head and its two sides."""

    def __init__(self, options: EmbedOptions, device: str | None = None) -> None:
        """Load the head. StepDiffError: it is of no use for this store."""
        from heads.data.clips import Features
        from heads.models.language_model import pick_device
        from heads.training.run_record import load_contrastive
        from store import Store

        self.store, self.view = Store.open(options.store), options.view
        self.device = device or pick_device(options.device)
        head, self.recipe = load_contrastive(Path(options.head), self.store, self.device)
        self.sides: dict[str, tuple[Features, Callable[[Any], Any]]] = {
            "clips": (Features(self.store, self.recipe.view, "tokens"), head.embed_clips),
            "texts": (
                Features(self.store, self.recipe.text_view, "embedding", "texts"),
                head.embed_texts,
            ),
        }

    def __call__(self, part: "WorkPart") -> None:
        """Embed the rows of a part of one shard and commit them; part.about: entity and shard of
        the view."""
        import numpy as np
        import torch

        entity, shard = part.about
        features, embed = self.sides[entity]
        blocks = []
        for start in range(0, len(part.rows), BLOCK):
            block = features.view.read(
                features.feature, part.rows[start : start + BLOCK], dtype="float32"
            )
            with torch.inference_mode():
                blocks.append(embed(torch.from_numpy(block).to(self.device)).cpu().numpy())
        self.store.view(entity, self.view).write_shard(
            shard, part.rows, {"embedding": np.concatenate(blocks)}, {}
        )


def missing(source: "View", view: "View", size: int) -> list[Any]:
    """Return the rows that `source` has and `view` lacks, in arrays of rows of one shard, at most
    `size`."""
    import numpy as np

    from store.view import OK

    rows = np.flatnonzero((source.status() == OK) & (view.status() != OK))
    of_shards = np.split(rows, np.flatnonzero(np.diff(rows // view.rows_per_shard)) + 1)
    return [run[start : start + size] for run in of_shards for start in range(0, len(run), size)]


def run(options: EmbedOptions) -> dict[str, Any]:
    import numpy as np

    from heads.data.training_clips import copy_to_store
    from heads.evaluation.workers import on_ray, results
    from heads.evidence.fitting import Guard, some_of
    from heads.methods.registry import ENCODER, PAIRS
    from heads.training import run_record
    from heads.training.checkpoint import Run
    from stepdiff_core.io.files import place
    from stepdiff_core.progress import progress
    from stepdiff_core.weights import fingerprint
    from stepdiff_core.workers.cluster import refuse_relative
    from stepdiff_core.workers.pool import WorkPart
    from store import Feature, Provenance
    from store.view import OK

    at_least(options, workers=1)
    refuse_relative(
        [
            ("--head", options.head),
            *([] if place(options.store).remote else [("--store", options.store)]),
        ]
    )
    embedder = Embedder(options, "cpu" if on_ray(options) else None)
    store, recipe = embedder.store, embedder.recipe
    weights = fingerprint(Run(Path(options.head)).best() / "head.safetensors")
    written: dict[str, Any] = {"view": options.view}
    todo: list[WorkPart] = []
    with store.lock(options.wait):
        copy_to_store(store, weights, Path(options.head), run_record.read(Path(options.head)))
        for entity, (features, _) in embedder.sides.items():
            source = features.view
            provenance = Provenance(
                encoder=f"{ENCODER}{PAIRS if recipe.pairs else ''} over {source.name}",
                weights=weights,
                layer=f"of {source.name} with weights {source.provenance.weights}",
                frames=source.provenance.frames,
                crop=source.provenance.crop,
                dtypes={"embedding": "float32"},
            )
            shape = {"embedding": Feature((recipe.width,), "float32")}
            with store.writer(entity, options.view, provenance, shape) as writer:
                per_shard = writer.view.rows_per_shard
                parts = missing(source, writer.view, PART if on_ray(options) else per_shard)
            written[entity] = sum(map(len, parts))
            todo += [
                WorkPart(len(todo) + n, rows, (entity, int(rows[0]) // per_shard))
                for n, rows in enumerate(parts)
            ]
        with progress(
            f"embeddings {options.view}", sum(len(part.rows) for part in todo), "rows"
        ) as advance:
            for _ in results(options, Embedder, embedder, todo, advance):
                pass
    features, _ = embedder.sides["clips"]
    rows = some_of(np.flatnonzero(features.view.status() == OK))
    guard = Guard.of_run(Path(options.head), store, features.view.name)
    written["unlike"] = guard.unlike(store.catalog("clips").keys(rows))
    return written


def show(record: dict[str, Any]) -> None:
    print("view {view}: {clips} clips and {texts} texts embedded".format(**record))
    if record["unlike"]:
        print(UNLIKE.format(**record["unlike"]))


def main(argv: list[str] | None = None) -> int:
    return parse(EmbedOptions, argv, "heads.embed", __doc__, run, show)


if __name__ == "__main__":
    command.run(main, "finished shards are kept; run the same command for the rest")
