"""python -m heads.embed --head runs/align --store data/features --view aligned

Writes a contrastive head's embeddings of all clips and texts as one view of the store, so that retrieval and vlemb
read them like any frozen encoder's. Run again, it adds what is missing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from common.cli import command
from common.cli.options import parse
from heads.data.clips import Features
from heads.models.language_model import pick_device
from store.io.writer import Values, ViewWriter
from store.view import OK

BLOCK = 256


@dataclass(frozen=True)
class EmbedOptions:
    head: str
    """run folder of a contrastive head"""
    store: str
    """feature store"""
    view: str = "aligned"
    """name of the view to write, on clips and on texts"""
    device: str = "auto"
    """auto, cpu, cuda"""
    wait: bool = False
    """wait while another run writes into the store, instead of giving up"""


def write_view(features: Features, writer: ViewWriter, embed: Callable[[Tensor], Tensor], device: str) -> int:
    """Embed every row that the source view has and the written view lacks; return how many."""

    def embedded(rows: Int64[np.ndarray, " S"]) -> tuple[Values, Mapping[int, str]]:
        blocks = []
        for start in range(0, len(rows), BLOCK):
            some = features.view.read(features.feature, rows[start : start + BLOCK], dtype="float32")
            with torch.inference_mode():
                blocks.append(embed(torch.from_numpy(some).to(device)).cpu().numpy())
        return {"embedding": np.concatenate(blocks)}, {}

    missing = np.flatnonzero((features.view.status() == OK) & (writer.view.status() != OK))
    writer.fill(missing, embedded)
    return len(missing)


def run(options: EmbedOptions) -> dict[str, Any]:
    from heads.trained import load_contrastive
    from heads.training import view_origin
    from heads.training.checkpoint import Run
    from store import Feature, Provenance, Store
    from weights import fingerprint

    store, device = Store.open(options.store), pick_device(options.device)
    head, recipe = load_contrastive(Path(options.head), store, device)
    weights = fingerprint(Run(Path(options.head)).best() / "head.safetensors")
    sides: dict[str, tuple[Features, Callable[[Tensor], Tensor]]] = {
        "clips": (Features(store, recipe.view, "tokens"), head.embed_clips),
        "texts": (Features(store, recipe.text_view, "embedding", "texts"), head.embed_texts),
    }
    written: dict[str, Any] = {"view": options.view}
    with store.lock(options.wait):
        view_origin.keep(store, weights, Path(options.head))
        for entity, (features, embed) in sides.items():
            source = features.view
            provenance = Provenance(
                encoder=f"{view_origin.ENCODER}{' trained on pairs' if recipe.pairs else ''} over {source.name}",
                weights=weights,
                layer=f"of {source.name} with weights {source.provenance.weights}",
                frames=source.provenance.frames,
                crop=source.provenance.crop,
                dtypes={"embedding": "float32"},
            )
            shape = {"embedding": Feature((recipe.width,), "float32")}
            with store.writer(entity, options.view, provenance, shape) as writer:
                written[entity] = write_view(features, writer, embed, device)
    return written


def main(argv: list[str] | None = None) -> int:
    told = "view {view}: {clips} clips and {texts} texts embedded"
    return parse(EmbedOptions, argv, "heads.embed", __doc__, run, told)


if __name__ == "__main__":
    command.run(main, "what is finished stays, run the same command for the rest")
