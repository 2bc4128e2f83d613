"""Grounding: the objects of a caption whose score in the clip is above zero (S1), by one of two
scorers.

- In a space of clips and texts, CLIP's or a contrastive head's, from cached embeddings: an object's
  cosine in the clip minus its mean cosine over the other clips of the view. An object that every
  kitchen shows scores near zero.
- By a zero-shot object detector of transformers (OWL-ViT, OWLv2, Grounding DINO) in the clip's
  centre frame: the score of an object's best box, whatever other objects the clip has.
"""

import hashlib
import heapq
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float32, Int64
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from featurize.encoders import load as load_encoder
from featurize.encoders import of_data
from heads.data.catalog_rows import marked
from heads.data.clips import Features
from heads.methods.similarity import Sentences
from heads.models.language_model import load_model, load_processor
from heads.training.checkpoint import Run
from heads.training.run_record import load_contrastive
from stepdiff.annotate.captioning import SHORT_SIDE, pictures
from stepdiff.annotate.stages.job import Answer, Item, Unanswered
from stepdiff_core.errors import StepDiffError
from stepdiff_core.threads import prefetched
from stepdiff_core.weights import fingerprint, resolve
from store import Catalog, Store

_BYTES = 2**16  # of the bits that are unpacked at once
_RUN = 2**20  # keys that are sorted at once
_GROUP = 2**13  # keys of each sorted run that are in memory while runs are merged


@dataclass(frozen=True)
class RowSet:
    """A set of rows that is small enough to be sent to every worker: 17 MB for 136 million rows."""

    bits: bytes = field(repr=False)  # of the rows from 0 on, the first row in the highest bit

    @classmethod
    def of(cls, blocks: Iterable[Int64[np.ndarray, " _"]]) -> "RowSet":
        return cls(np.packbits(marked(blocks)).tobytes())

    def __len__(self) -> int:
        return int(np.bitwise_count(np.frombuffer(self.bits, np.uint8)).sum())

    def blocks(self, size: int) -> Iterator[Int64[np.ndarray, " _"]]:
        rows = np.empty(0, np.int64)
        for first in range(0, len(self.bits), _BYTES):
            bits = np.unpackbits(np.frombuffer(self.bits[first : first + _BYTES], np.uint8))
            rows = np.concatenate([rows, np.flatnonzero(bits) + 8 * first])
            while len(rows) >= size:
                yield rows[:size]
                rows = rows[size:]
        if len(rows):
            yield rows


def sha256_of_keys(catalog: Catalog, rows: RowSet) -> str:
    """Return the sha256 of the sorted keys of rows, with line feeds between them; runs are sorted
    in files."""
    digest, between = hashlib.sha256(), b""
    with tempfile.TemporaryDirectory(prefix="keys-") as folder:
        runs = []
        for number, block in enumerate(rows.blocks(_RUN)):
            path = Path(folder, f"{number}.parquet")
            pl.Series("key", catalog.keys(block)).sort().to_frame().write_parquet(
                path, row_group_size=_GROUP
            )
            runs.append(_keys(path, len(block)))
        for key in heapq.merge(*runs):
            digest.update(between + key.encode())
            between = b"\n"
    return digest.hexdigest()


def _keys(path: Path, count: int) -> Iterator[str]:
    for first in range(0, count, _GROUP):
        yield from pl.scan_parquet(path).slice(first, _GROUP).collect()["key"].to_list()


GROUNDED, SCORES = "grounded objects", "grounding scores"
_BULLET = re.compile(r"^\s*(?:[-*•]+|\(?\d+[.):](?!\d))\s*")
MOST = 32  # objects of a clip that are read: a captioner that repeats itself never ends its list
UNCAPTIONED = Unanswered("no object caption: run stepdiff annotate captions, then --retry-failed")
WORDS = 16  # words of an object that are read, well below the limits of text towers


def objects(text: str) -> list[str]:
    """Return the objects of a caption: its lines without bullets, or the items of a single line,
    each once."""
    lines = text.strip().splitlines()
    if len(lines) == 1:
        lines = re.split(r"[,;]\s+(?:and\s+)?", lines[0])
    names = (" ".join(_BULLET.sub("", line).split()[:WORDS]).strip(" .,;") for line in lines)
    return list(dict.fromkeys(filter(None, names)))[:MOST]


def grounded(names: Sequence[str], scores: Sequence[float]) -> Answer:
    """Return the answer of a clip with these objects and scores."""
    scored = [
        {"object": name, "score": round(score, 6)}
        for name, score in zip(names, scores, strict=True)
    ]
    above = [name for name, score in zip(names, scores, strict=True) if score > 0]
    return {GROUNDED: "\n".join(above), SCORES: json.dumps(scored, ensure_ascii=False)}


_BLOCK = 4096  # clips read at once
Embed = Callable[[Sequence[str]], Float32[Tensor, "T E"]]


@dataclass(frozen=True)
class SpaceJob:
    store: str
    view: str  # of clips, with embeddings
    # run folder of the contrastive head that made the view; None: its encoder embeds texts too
    head: str | None
    weights: str | None  # of that encoder: a folder or hub id; None: those of its name
    others: RowSet  # clips with embeddings, over which an object's mean is computed
    mean_over: str  # their checksum, sha256_of_keys
    reads: dict[str, str]  # stage -> version of the object captions

    def provenance(self) -> dict[str, Any]:
        view = Store.open(self.store).view("clips", self.view).provenance.as_dict()
        return {"view": view, "mean_over": self.mean_over, "reads": self.reads}

    def load(self, device: str, threads: int) -> "Space":
        store = Store.open(self.store)
        features = Features(store, self.view, "embedding")
        return Space(features, self._texts(store, features, device), self.others)

    def _texts(self, store: Store, features: Features, device: str) -> Embed:
        """Return the embedding of texts in the view's space. StepDiffError if another model made
        the view."""
        provenance = features.view.provenance
        if self.head is not None:
            head, recipe = load_contrastive(Path(self.head), store, device)
            self._check(
                provenance.weights,
                fingerprint(Run(Path(self.head)).best() / "head.safetensors"),
                "--head",
            )
            sentences = Sentences(store, device)
            return lambda texts: head.embed_texts(
                torch.from_numpy(sentences(texts)).to(device)
            ).cpu()
        encoder = load_encoder(of_data(provenance.encoder), self.weights, device)
        self._check(provenance.weights, encoder.fingerprint, "--weights")
        return lambda texts: torch.from_numpy(encoder.encode_texts(list(texts))["embedding"])

    def _check(self, made: str, expected: str, flag: str) -> None:
        if made != expected:
            why = f"other weights (sha256 {made[:12]}) than those of {flag} ({expected[:12]})"
            raise StepDiffError(f"view {self.view} was made with {why}; name those that made it")


class Space:
    def __init__(self, features: Features, embed: Embed, others: RowSet) -> None:
        """Sum the embeddings of `others`, over which an object's mean is computed; embed: texts ->
        embeddings."""
        self.features, self.embed = features, embed
        self._count = len(others)
        if self._count < 2:
            raise StepDiffError(
                f"view {features.view.name} has {self._count} of the clips; a mean needs 2 or more"
            )
        sums = torch.empty(-(-self._count // _BLOCK), *features.shape, dtype=torch.float64)
        for number, rows in enumerate(others.blocks(_BLOCK)):
            sums[number] = normalize(features.read_rows(rows), dim=-1).double().sum(0)
        self._sum = sums.sum(0)

    def annotate(self, items: Sequence[Item]) -> Iterator[tuple[str, Answer]]:
        """Yield the objects of every item: key, objects (a caption, or None)."""
        has = dict(
            zip(
                [i["key"] for i in items], self.features.has([i["key"] for i in items]), strict=True
            )
        )
        for item in items:
            key = item["key"]
            if item["objects"] is None:
                yield key, UNCAPTIONED
            elif not has[key]:
                yield (
                    key,
                    Unanswered(
                        f"no embedding in view {self.features.view.name}: make it, then "
                        "--retry-failed"
                    ),
                )
            else:
                names = objects(item["objects"])
                yield key, grounded(names, self.scores(key, names) if names else [])

    def scores(self, key: str, names: Sequence[str]) -> list[float]:
        """Return each object's cosine in the clip minus its mean cosine over the other clips."""
        with torch.inference_mode():
            texts = normalize(self.embed(names), dim=-1).double()
            clip = normalize(self.features.read([key]), dim=-1)[0].double()
            others = (self._sum - clip) / (self._count - 1)
            return (texts @ (clip - others)).tolist()


_MANY_QUERIES = ("owlvit", "owlv2")
"""model types that score every text alone; the others read one sentence, so they receive one object
at a time"""


@dataclass(frozen=True)
class DetectorJob:
    model: str  # folder or hub id
    threshold: float  # of a box's score
    reads: dict[str, str]  # stage -> version of the object captions

    def provenance(self) -> dict[str, Any]:
        weights = {
            "model": self.model,
            "weights": fingerprint(resolve(self.model)),
            "threshold": self.threshold,
        }
        return {**weights, "short_side": SHORT_SIDE, "reads": self.reads}

    def load(self, device: str, threads: int) -> "Detector":
        return Detector(self, device, threads)


class Detector:
    def __init__(self, job: DetectorJob, device: str, threads: int) -> None:
        self.job, self.threads = job, threads
        self.processor = load_processor(job.model)
        self.model = load_model("AutoModelForZeroShotObjectDetection", job.model, device)
        self.many = self.model.config.model_type in _MANY_QUERIES

    def annotate(self, items: Sequence[Item]) -> Iterator[tuple[str, Answer]]:
        """Yield the objects of every item: key, objects (a caption, or None), video (path), start,
        end (seconds)."""
        names: dict[str, list[str]] = {}
        for item in items:
            if item["objects"] is None:
                yield item["key"], UNCAPTIONED
            elif listed := objects(item["objects"]):
                names[item["key"]] = listed
            else:
                yield item["key"], grounded([], [])
        failed: dict[str, Unanswered] = {}
        shown = pictures([item for item in items if item["key"] in names], 1, self.threads, failed)
        inputs_of = ((key, self.inputs(picture, names[key])) for key, (picture,) in shown)
        for key, inputs in prefetched([inputs_of]):
            yield key, grounded(names[key], self.scores(inputs))
        yield from failed.items()

    def inputs(self, picture: Image.Image, names: Sequence[str]) -> Any:
        """Return the inputs that the model's processor makes of a picture and its objects."""
        how: dict[str, Any] = {"truncation": True, "return_tensors": "pt"}
        if self.many:
            return self.processor(text=[[*names]], images=[picture], **how)
        texts = [name.lower() + "." for name in names]
        return self.processor(text=texts, images=[picture] * len(texts), padding=True, **how)

    def scores(self, inputs: Any) -> list[float]:
        """Return the best box's score of every object, 0 below the threshold."""
        with torch.inference_mode():
            logits = self.model(**inputs.to(self.model.device, self.model.dtype)).logits.float()
        # [1, boxes, objects], or [objects, boxes, tokens]
        best = (logits[0].amax(0) if self.many else logits.amax((1, 2))).sigmoid().tolist()
        return [score if score >= self.job.threshold else 0.0 for score in best]
