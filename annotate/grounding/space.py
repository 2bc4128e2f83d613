"""Grounding in a space of clips and texts: CLIP's, or that of a contrastive head, from cached embeddings.

An object's score in a clip is its cosine there minus its mean cosine over the other clips of the view: an object that
every kitchen shows scores near zero.

Guarantees
- the score is a difference of cosines
- embeddings of another model than the view's are refused
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor
from torch.nn.functional import normalize

from annotate.grounding.objects import kept, objects
from annotate.stages.job import Answer, Failure, Item
from common.errors import StepDiffError
from featurize.encoders import load as load_encoder
from heads.data.clips import Features
from heads.methods.similarity import Sentences
from heads.training.checkpoint import Run
from heads.training.lineage import load_contrastive
from store import Store
from weights import fingerprint

_BLOCK = 4096  # clips read at once
Embed = Callable[[Sequence[str]], Float32[Tensor, "T E"]]


@dataclass(frozen=True)
class SpaceJob:
    store: str
    view: str  # of clips, with embeddings
    head: str | None  # run folder of the contrastive head that made the view; None: its encoder embeds texts too
    weights: str | None  # of that encoder: a folder or hub id; None: those of its name
    others: tuple[str, ...] = field(repr=False)  # clips with embeddings, over which an object's mean is computed
    reads: dict[str, str]  # stage -> version of the object captions

    def provenance(self) -> dict[str, Any]:
        made = Store.open(self.store).view("clips", self.view).provenance
        others = hashlib.sha256("\n".join(sorted(self.others)).encode()).hexdigest()
        return {"view": made.as_dict(), "mean_over": others, "reads": self.reads}

    def load(self, device: str, threads: int) -> "Space":
        store = Store.open(self.store)
        features = Features(store, self.view, "embedding")
        return Space(features, self._texts(store, features, device), self.others)

    def _texts(self, store: Store, features: Features, device: str) -> Embed:
        """Return the embedding of texts in the view's space. StepDiffError if another model made the view."""
        made = features.view.provenance
        if self.head is not None:
            head, recipe = load_contrastive(Path(self.head), store, device)
            self._check(made.weights, fingerprint(Run(Path(self.head)).best() / "head.safetensors"), "--head")
            sentences = Sentences(store, device)
            return lambda texts: head.embed_texts(torch.from_numpy(sentences(texts)).to(device)).cpu()
        encoder = load_encoder(made.encoder, self.weights, device)
        self._check(made.weights, encoder.fingerprint, "--weights")
        return lambda texts: torch.from_numpy(encoder.encode_texts(list(texts))["embedding"])

    def _check(self, made: str, given: str, flag: str) -> None:
        if made != given:
            why = f"other weights (sha256 {made[:12]}) than those of {flag} ({given[:12]})"
            raise StepDiffError(f"view {self.view} was made with {why}; name those that made it")


class Space:
    def __init__(self, features: Features, embed: Embed, others: Sequence[str]) -> None:
        """Sum the embeddings of `others`, over which an object's mean is computed; embed: texts -> embeddings."""
        self.features, self.embed = features, embed
        if len(others) < 2:
            raise StepDiffError(f"view {features.view.name} has {len(others)} of the clips; a mean needs 2 or more")
        blocks = (self._clips(others[start : start + _BLOCK]) for start in range(0, len(others), _BLOCK))
        self._sum = torch.stack([block.double().sum(0) for block in blocks]).sum(0)
        self._count = len(others)
        self.busy = 0.0

    def _clips(self, keys: Sequence[str]) -> Float32[Tensor, "K E"]:
        return normalize(self.features.read(keys), dim=-1)

    def annotate(self, items: Sequence[Item]) -> Iterator[tuple[str, Answer]]:
        """Yield the objects of every item: key, objects (a caption, or None)."""
        has = dict(zip([i["key"] for i in items], self.features.has([i["key"] for i in items]), strict=True))
        for item in items:
            key = item["key"]
            if item["objects"] is None:
                yield key, Failure("no object caption: run python -m annotate.captions, then --retry-failed")
            elif not has[key]:
                yield key, Failure(f"no embedding in view {self.features.view.name}: make it, then --retry-failed")
            else:
                names = objects(item["objects"])
                yield key, kept(names, self.scores(key, names) if names else [])

    def scores(self, key: str, names: Sequence[str]) -> list[float]:
        """Return each object's cosine in the clip minus its mean cosine over the other clips."""
        begin = time.monotonic()
        with torch.inference_mode():
            texts = normalize(self.embed(names), dim=-1).double()
            clip = self._clips([key])[0].double()
            others = (self._sum - clip) / (self._count - 1)
            found = (texts @ (clip - others)).tolist()
        self.busy += time.monotonic() - begin
        return found
