"""One pass over a store: the sums of its training clips, shard by shard.

X [n, D] are the pooled features of n clips, Y [n, V] their labels. All that a regression needs are their sums: the Gram
matrix of the standardised features is (X'X - n mm') / ss', with the mean m and the spread s of X.

Guarantees
- a killed run resumes after its last saved shard, and a run with more shards continues: the same bits as in one pass
- sums of other features, texts or options, or of clips that have changed since, are refused
- workers read and average tokens; one process adds, in the order of shards, so their number changes no bit
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import scipy.sparse as sparse
from jaxtyping import Float64, Int8, Int64

from heads.data.catalog_rows import of_keys, of_rows
from heads.data.clips import Features, split_texts
from heads.data.hold_out import VIDEO, HoldOut
from heads.data.paired_qa import read_divided
from heads.evaluation.workers import Part, results
from heads.evidence.head import fold_of
from heads.evidence.wording import CLIPS, Wording, learn
from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.files import make_folder, whole
from stepdiff.common.progress import progress, say
from stepdiff.tasks.testsets import DiffRank, read_test_set
from stepdiff.weights import fingerprint
from store import Store

if TYPE_CHECKING:
    from heads.words import WordOptions

FILE = "sums.safetensors"
_AT_ONCE = 16
"""clips whose tokens are in memory"""


@dataclass
class Sums:
    """Sums over clips. D channels, V terms."""

    clips: Float64[np.ndarray, ""]
    x: Float64[np.ndarray, " D"]
    xx: Float64[np.ndarray, "D D"]
    xy: Float64[np.ndarray, "V D"]
    y: Float64[np.ndarray, " V"]
    yy: Float64[np.ndarray, " V"]

    @classmethod
    def zeros(cls, channels: int, terms: int) -> "Sums":
        """Return the sums over no clip."""
        shapes = ((), (channels,), (channels, channels), (terms, channels), (terms,), (terms,))
        return cls(*map(np.zeros, shapes))

    @classmethod
    def of(cls, values: Float64[np.ndarray, "n D"], labels: sparse.csr_matrix) -> "Sums":
        """Return the sums over n clips. labels: [n, V]."""
        y, yy = (np.asarray(each.sum(axis=0), np.float64)[0] for each in (labels, labels.multiply(labels).tocsr()))
        xy = np.asarray(labels.T.tocsr() @ values)
        return cls(np.array(float(len(values))), values.sum(axis=0), values.T @ values, xy, y, yy)

    def add(self, more: "Sums") -> None:
        """Add the sums over other clips, in place."""
        for field in fields(self):
            mine = getattr(self, field.name)
            np.add(mine, getattr(more, field.name), out=mine)


def total(parts: Sequence[Sums]) -> Sums:
    """Return the sums over the clips of all parts, added in order."""
    sums = Sums.zeros(len(parts[0].x), len(parts[0].y))
    for part in parts:
        sums.add(part)
    return sums


def pooled(features: Features, rows: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, "n D"]:
    """Return the mean of the tokens of each clip."""
    parts = [
        features.read_rows(rows[start : start + _AT_ONCE]).numpy().mean(axis=1, dtype=np.float64)
        for start in range(0, len(rows), _AT_ONCE)
    ]
    return np.concatenate(parts)


def reader(options: "WordOptions") -> Callable[[Part], Float64[np.ndarray, "n D"]]:
    """Return what averages the tokens of a shard's clips in a worker."""
    features = Features(Store.open(options.store), options.view, "tokens")
    return lambda shard: pooled(features, shard.rows)


@dataclass
class Count:
    """The sums of each group, and what they depend on."""

    identity: Mapping[str, Any]
    wording: Wording
    groups: list[Sums]
    """of each fold of the training clips, and of the clips of split val"""
    shards: dict[int, str]
    """counted shards and the digests of their clips"""

    def save(self, path: Path) -> None:
        """Write the file of sums."""
        from safetensors.numpy import save_file

        arrays = {
            f"{group}.{f.name}": getattr(sums, f.name) for group, sums in enumerate(self.groups) for f in fields(sums)
        }
        about = {"identity": self.identity, "wording": self.wording.as_dict(), "shards": list(self.shards.items())}
        with whole(path) as temporary:
            save_file(arrays, temporary, {"about": json.dumps(about)})

    @classmethod
    def load(cls, path: Path) -> "Count":
        """Read a file of sums. StepDiffError: it is damaged."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "np") as file:
                about = json.loads(file.metadata()["about"])
                names = [each.name for each in fields(Sums)]
                groups = [
                    Sums(*(file.get_tensor(f"{group}.{name}") for name in names))
                    for group in range(len(file.keys()) // len(names))
                ]
            return cls(
                about["identity"], Wording.from_dict(about["wording"]), groups, dict(map(tuple, about["shards"]))
            )
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise StepDiffError(f"{path}: damaged ({error}); remove it, and the next run counts all clips") from error


class Counting:
    """A pass: the clips that count, what their texts say, and the sums so far."""

    def __init__(self, options: "WordOptions", store: Store) -> None:
        """Read the texts, and the sums of an earlier run. StepDiffError: they cannot be used."""
        self.options, self.store, self.folder = options, store, Path(options.out)
        self.validation: list[DiffRank] | None = None
        if options.validation is not None:
            self.validation = read_test_set("diffrank", options.validation)
        self.features = Features(store, options.view, "tokens")
        if len(self.features.shape) != 2:
            raise StepDiffError(f"--view {options.view}: its tokens are {list(self.features.shape)}, not [N, D]")
        self.catalog = store.catalog("clips")
        self.hold_out = HoldOut(options.hold_out, options.hold_out_by)
        self.hold_out.look_up(self.catalog)
        self.pairs, _ = read_divided(options.pairqa, self.catalog, self.hold_out)
        self.rows, self.groups = self._clips()
        identity = {
            "features": self.features.view.provenance.as_dict(),
            "--pairqa": fingerprint(options.pairqa),
            "--narration": options.narration,
            "--hold-out": [fingerprint(file) for file in options.hold_out],
            "--hold-out-by": options.hold_out_by,
            "--least": options.least,
            "--most": options.most,
            "--folds": options.folds,
        }
        if (self.folder / FILE).exists():
            self.count = Count.load(self.folder / FILE)
            if differs := [name for name, value in identity.items() if self.count.identity.get(name) != value]:
                raise StepDiffError(
                    f"{self.folder}: its sums are of other {', '.join(differs)}; give the same, or another --out"
                )
        else:
            wording, channels = self._wording(), self.features.shape[-1]
            groups = [Sums.zeros(channels, len(wording.terms)) for _ in range(options.folds + 1)]
            self.count = Count(identity, wording, groups, {})
        self.signs = self.count.wording.signs(self.pairs)
        self.shards = self._shards()

    def _clips(self) -> tuple[Int64[np.ndarray, " n"], Int8[np.ndarray, " n"]]:
        """Return rows and groups of the clips that count, by row."""
        options, folds = self.options, self.options.folds
        texts = partial(split_texts, self.catalog, options.narration, self.features)
        held = self.hold_out.clips["key"].implode()
        val = (block.filter(~pl.col("key").is_in(held)) for block in texts("val"))
        rows, groups = [], []
        for blocks, is_val in ((self.hold_out.kept(texts("train"), options.narration), False), (val, True)):
            for block in blocks:
                videos = block.select(pl.coalesce(VIDEO, "key"))["video"]
                rows.append(block["row"].to_numpy())
                groups.append(np.array([folds if is_val else fold_of(video, folds) for video in videos], np.int8))
        every, of = np.concatenate(rows).astype(np.int64), np.concatenate(groups)
        if len(np.unique(of[of < folds])) < 2:
            raise StepDiffError(
                f"{options.store}: its clips of split train with {options.view} features and a text in column "
                f"{options.narration} are of too few videos; featurize more, or give a smaller --hold-out"
            )
        order = np.argsort(every, kind="stable")
        return every[order], of[order]

    def _wording(self) -> Wording:
        """Learn what the texts say."""
        column = {"key": pl.String, self.options.narration: pl.String}
        train = self.rows[self.groups < self.options.folds]
        texts = (
            text for block in of_rows(self.catalog, train[:CLIPS], column) for text in block[self.options.narration]
        )
        keys = list(dict.fromkeys(clip for pair in self.pairs for clip in (pair.reference, pair.candidate)))
        narrated = of_keys(self.catalog, keys, column).drop_nulls()
        return learn(texts, dict(narrated.iter_rows()), self.pairs, self.options.least, self.options.most)

    def _shards(self) -> list[Part]:
        """Return the shards still to count, in order, each about the groups of its clips. StepDiffError: counted ones
        have changed."""
        numbers = self.rows // self.features.view.rows_per_shard
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        parts = zip(numbers[starts], np.split(self.rows, starts[1:]), np.split(self.groups, starts[1:]), strict=True)
        shards = {int(number): Part(int(number), rows, groups) for number, rows, groups in parts}
        last = max(self.count.shards, default=-1)
        left = [shard for number, shard in shards.items() if number not in self.count.shards]
        changed = [shard.shard for shard in left if shard.shard < last]
        changed += [
            number
            for number, digest in self.count.shards.items()
            if number not in shards or self._digest(shards[number], self._narrated(shards[number])) != digest
        ]
        if changed:
            raise StepDiffError(
                f"{self.folder}: clips of shard {changed[0]} of view {self.options.view} have changed since they were "
                f"counted (features, text or split); give another --out, or remove {self.folder / FILE}"
            )
        return left

    def _narrated(self, shard: Part) -> list[tuple[str, str]]:
        column = {"key": pl.String, self.options.narration: pl.String}
        return [row[1:] for block in of_rows(self.catalog, shard.rows, column) for row in block.iter_rows()]

    def _digest(self, shard: Part, narrated: Sequence[tuple[str, str]]) -> str:
        """Return a digest of all that a shard adds: its rows, groups, checksums of tokens, and texts."""
        view = self.features.view
        sums = view.checksums(shard.rows)[:, view.checksummed.index("tokens")]
        texts = json.dumps(narrated).encode()
        data = b"".join((shard.rows.tobytes(), shard.about.tobytes(), np.ascontiguousarray(sums).tobytes(), texts))
        return hashlib.blake2b(data, digest_size=16).hexdigest()

    def run(self) -> None:
        """Count all shards that are left, and save the sums."""
        make_folder(self.folder)
        per_shard, catalog, saved, fresh = self.features.view.rows_per_shard, len(self.catalog), time.monotonic(), False
        if self.count.shards:
            say(f"{self.folder}: {len(self.count.shards)} shards are counted already, {len(self.shards)} are left")
        with progress("words", sum(len(shard.rows) for shard in self.shards), "clips") as advance:
            values = results(self.options, reader, reader(self.options), self.shards, advance)
            for shard, features in zip(self.shards, values, strict=True):
                narrated = self._narrated(shard)
                full = (shard.shard + 1) * per_shard <= catalog
                if fresh and (not full or time.monotonic() - saved > self.options.save_every):
                    self.count.save(self.folder / FILE)  # without a shard to which rows may be added
                    saved, fresh = time.monotonic(), False
                self._add(shard, narrated, features)
                if full:
                    self.count.shards[shard.shard], fresh = self._digest(shard, narrated), True
            if fresh:
                self.count.save(self.folder / FILE)

    def _add(self, shard: Part, narrated: Sequence[tuple[str, str]], values: Float64[np.ndarray, "n D"]) -> None:
        labels = self.count.wording.targets(narrated, self.signs)
        for group in np.unique(shard.about):
            of_group = np.flatnonzero(shard.about == group)
            self.count.groups[group].add(Sums.of(values[of_group], labels[of_group]))
