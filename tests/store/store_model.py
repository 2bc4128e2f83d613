"""A plain-dictionary model of a feature store, the oracle of the state machine, and the commands of
the machine.

The model was written from the store's documented rules (words, formats, commit order), not from the
implementation, and shares no code with it. All values are derived from the key and a seed, so that
a view can be recomputed at any time.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from store import Feature, Provenance, Store
from store.verbs.compact import compact
from store.verbs.derive import requantise
from store.verbs.options import CompactOptions, DropOptions, RequantiseOptions
from store.verbs.removal import drop

ABSENT, OK, FAILED = 0, 1, 2
BLOCK = 64  # channels per scale
MAIN = "tokens"
"""the largest feature: the one whose dtype users choose"""
SHAPES = {MAIN: (3, 70), "embedding": (7,)}
"""features of every view of the state machine, and the shapes of their rows"""


def values_of(key: str, name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Return the float32 features of one clip, as from a frozen encoder; magnitudes vary and some
    rows are all zero."""
    digest = hashlib.sha256(f"{key}/{name}/{seed}".encode()).digest()
    rng = np.random.default_rng(list(digest[:16]))
    if digest[16] % 8 == 0:  # equal to the fill value of the arrays
        return np.zeros(shape, np.float32)
    return (rng.normal(size=shape) * 10.0 ** rng.integers(-3, 3)).astype(np.float32)


def quantised(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 levels and a float16 scale per 64 channels: value = level * scale, scale rounded
    up, never zero."""
    exact = np.maximum.reduceat(
        np.abs(values), np.arange(0, values.shape[-1], BLOCK), axis=-1
    ) / np.float32(127)
    scale = exact.astype(np.float16)
    scale = np.where(scale < exact, np.nextafter(scale, np.float16(np.inf)), scale)
    scale = np.where(exact == 0, np.float16(1), scale)
    return np.rint(values / spread(scale, values.shape[-1])).astype(np.int8), scale


def spread(scale: np.ndarray, channels: int) -> np.ndarray:
    """Return the scale of every channel, float32."""
    return np.repeat(scale.astype(np.float32), BLOCK, axis=-1)[..., :channels]


@dataclass
class Row:
    """One ok row of a view: each feature in the dtype it is stored in, and the scale of an int8
    feature."""

    stored: dict[str, np.ndarray]
    scale: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, values: dict[str, np.ndarray], dtypes: dict[str, str]) -> "Row":
        """Store float32 `values` in `dtypes`."""
        row = cls({})
        for name, value in values.items():
            if dtypes[name] == "int8":
                row.stored[name], row.scale[name] = quantised(value)
            else:
                row.stored[name] = value.astype(dtypes[name])
        return row

    def floats(self, name: str) -> np.ndarray:
        """Return the feature as float32."""
        if name in self.scale:
            return self.stored[name] * spread(self.scale[name], self.stored[name].shape[-1])
        return self.stored[name].astype(np.float32)


@dataclass
class ModelView:
    """One view: ok rows and failed rows by key. A key in neither dictionary is absent.

    `chain` holds the dtypes of the main feature, first to last: a view made by requantising has
    those of its source before its own. Two views with another seed or chain have another
    provenance.
    """

    shapes: dict[str, tuple[int, ...]]
    chain: tuple[str, ...]
    rows_per_shard: int | None
    """None: whatever the store chooses"""
    seed: int
    ok: dict[str, Row] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def dtypes(self) -> dict[str, str]:
        """Return the stored dtype of each feature."""
        return {name: self.chain[-1] if name == MAIN else "float32" for name in self.shapes}

    def status(self, keys: list[str]) -> list[int]:
        """Return the status of each key."""
        return [OK if key in self.ok else FAILED if key in self.failed else ABSENT for key in keys]

    def computed(self, key: str) -> Row:
        """Return the content of an ok row: the encoder's values, converted to each dtype of the
        chain in turn."""
        values = {
            name: values_of(key, name, shape, self.seed) for name, shape in self.shapes.items()
        }
        for dtype in self.chain[:-1]:
            values[MAIN] = Row.of({MAIN: values[MAIN]}, {MAIN: dtype}).floats(MAIN)
        return Row.of(values, self.dtypes)

    def fill(self, good: Iterable[str], bad: Mapping[str, str]) -> None:
        """Commit rows. Failed rows may become ok; ok rows keep their bytes and do not fail."""
        for key in good:
            if key not in self.ok:
                self.ok[key] = self.computed(key)
                self.failed.pop(key, None)
        self.failed.update({key: reason for key, reason in bad.items() if key not in self.ok})

    def take_over(self, source: "ModelView") -> None:
        """Requantise: add the ok and failed rows of `source` that this view does not have."""
        self.fill([key for key in source.ok if key not in self.ok], {})
        self.failed.update(
            {
                key: why
                for key, why in source.failed.items()
                if key not in self.ok and key not in self.failed
            }
        )


@dataclass
class ModelStore:
    """The catalog (keys in row order) and the views."""

    keys: list[str] = field(default_factory=list)
    views: dict[str, ModelView] = field(default_factory=dict)

    def append(self, keys: Iterable[str]) -> None:
        """Append the new keys in order: rows never move."""
        self.keys += [key for key in keys if key not in set(self.keys)]


def provenance(seed: int, dtype: str) -> Provenance:
    """Return the provenance of a view of the state machine."""
    return Provenance(
        "net", f"{seed:064d}", "last", "8 evenly", "crop", {"tokens": dtype, "embedding": "float32"}
    )


def filling(view: str, seed: int, good: list[str], bad: dict[str, str]) -> dict[str, Any]:
    """Return the command that writes keys of a view: `good` ones, and `bad` ones with the reasons
    of their failure."""
    return {"op": "fill", "view": view, "good": good, "bad": bad, "seed": seed}


def perform(store: Store, command: dict[str, Any]) -> None:
    """Execute a command."""
    path, op = str(store.path), command["op"]
    if op == "append":
        store.catalog("clips").append(pl.DataFrame({"key": command["keys"]}))
    elif op == "create":
        features = {
            n: Feature(s, command["dtype"] if n == MAIN else "float32") for n, s in SHAPES.items()
        }
        with store.lock():
            made_by = provenance(command["seed"], command["dtype"])
            store.create_view("clips", command["view"], made_by, features, command["shard"])
    elif op == "fill":
        _fill(store, command)
    elif op == "requantise":
        requantise(RequantiseOptions(path, command["view"], command["to"], command["dtype"]))
    elif op == "drop":
        drop(DropOptions(path, command["view"], yes=True))
    elif op == "compact":
        compact(CompactOptions(path))
    else:
        raise AssertionError(op)


def perform_in(path: str, command: dict[str, Any]) -> None:
    """Execute a command in the store of that path, in a process of its own."""
    perform(Store.open(path, create=True), command)


def _fill(store: Store, command: dict[str, Any]) -> None:
    """Write rows shard by shard, as featurize does."""
    good, bad = command["good"], command["bad"]
    with store.lock():
        view = store.view("clips", command["view"])
        view.resize()
        keys = [*good, *bad]
        rows = dict(zip(keys, view.catalog.rows(keys).tolist(), strict=True))
        for shard in sorted({row // view.rows_per_shard for row in rows.values()}):
            here = [key for key in good if rows[key] // view.rows_per_shard == shard]
            failed = [key for key in bad if rows[key] // view.rows_per_shard == shard]
            # the values contain NaN and infinity, which the store detects
            unfit = {
                key: bad[key].rpartition(" ")[2]
                for key in failed
                if bad[key].startswith(f"{MAIN} holds")
            }
            values = {
                name: np.stack(
                    [values_of(key, name, shape, command["seed"]) for key in [*here, *unfit]]
                )
                if here or unfit
                else np.zeros((0, *shape), np.float32)
                for name, shape in SHAPES.items()
            }
            for place, wrong in enumerate(unfit.values(), len(here)):
                values[MAIN][place, -1, -1] = {"NaN": np.nan, "infinity": np.inf}[wrong]
            numbers = np.array([rows[key] for key in [*here, *unfit]], np.int64)
            reasons = {rows[key]: bad[key] for key in failed if key not in unfit}
            view.write_shard(shard, numbers, values, reasons, {"n": len(keys)})
