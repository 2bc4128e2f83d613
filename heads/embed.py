"""Write a contrastive head's embeddings of all clips and texts as a view of the store.

python -m heads.embed --head runs/align --store data/features --view aligned

Retrieval and vlemb read that view as they read a frozen encoder's. A second run adds only what is missing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.cli import command
from common.cli.options import parse

BLOCK = 256
"""rows embedded at a time"""


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


def write_view(features: Any, writer: Any, embed: Callable[[Any], Any], device: str) -> int:
    """Embed every row that the source view has and the written view lacks; return their number."""
    import numpy as np
    import torch

    from store.view import OK

    def embedded(rows: Any) -> Any:
        blocks = []
        for start in range(0, len(rows), BLOCK):
            block = features.view.read(features.feature, rows[start : start + BLOCK], dtype="float32")
            with torch.inference_mode():
                blocks.append(embed(torch.from_numpy(block).to(device)).cpu().numpy())
        return {"embedding": np.concatenate(blocks)}, {}

    missing = np.flatnonzero((features.view.status() == OK) & (writer.view.status() != OK))
    writer.fill(missing, embedded)
    return len(missing)


def run(options: EmbedOptions) -> dict[str, Any]:
    from heads.data.clips import Features
    from heads.evaluation import seen
    from heads.evaluation.options import ENCODER, PAIRS
    from heads.models.language_model import pick_device
    from heads.training.checkpoint import Run
    from heads.training.lineage import load_contrastive
    from store import Feature, Provenance, Store
    from weights import fingerprint

    store, device = Store.open(options.store), pick_device(options.device)
    head, recipe = load_contrastive(Path(options.head), store, device)
    weights = fingerprint(Run(Path(options.head)).best() / "head.safetensors")
    sides: dict[str, tuple[Features, Callable[[Any], Any]]] = {
        "clips": (Features(store, recipe.view, "tokens"), head.embed_clips),
        "texts": (Features(store, recipe.text_view, "embedding", "texts"), head.embed_texts),
    }
    written: dict[str, Any] = {"view": options.view}
    with store.lock(options.wait):
        seen.record_origin(store, weights, Path(options.head))
        for entity, (features, embed) in sides.items():
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
                written[entity] = write_view(features, writer, embed, device)
    return written


def main(argv: list[str] | None = None) -> int:
    line = "view {view}: {clips} clips and {texts} texts embedded"
    return parse(EmbedOptions, argv, "heads.embed", __doc__, run, line)


if __name__ == "__main__":
    command.run(main, "finished shards are kept; run the same command for the rest")
