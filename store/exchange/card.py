"""The card of an export: what the features are, how many rows there are, how to open them.

`_export.json` in the folder of an export is the card for programs, written first; README.md is the card for readers,
written last. Parquet has it as `_README.md`, because pandas and pyarrow read all files of a folder but those whose
names begin with `_` or `.`; Hugging Face looks for README.md.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import yaml
from jaxtyping import Bool

from common.errors import StepDiffError
from store.feature_store import Store
from store.format.layout import FORMAT, VERSION
from store.format.quantise import BLOCK
from store.io.status import ABSENT, FAILED
from store.provenance import Feature, Provenance
from store.view import View

NAME = "_export.json"
ROWS = "_export.rows"
"""the rows of an export that is not complete: their number, and a bit for each"""
_WINDOW = 2**16  # rows whose checksums are read at a time
_LOOSE = ("date", "failed", "absent", "forgotten", "parts")
"""fields that may differ between the runs of one export; `digest` depends on the rows of all parts"""
_SAID = {
    "digest": "the rows or their features",
    "catalog": "keys or metadata of the rows in the catalog",
    "all_columns": "--columns was given for one of them only",
}
"""fields whose values say nothing to a reader"""
_OPEN = {
    "parquet": 'import pandas as pd\nframe = pd.read_parquet("{path}")\nvalues = frame["{name}"]',
    "lance": 'import lance\ndataset = lance.dataset("{path}")\nvalues = dataset.take([0])["{name}"]',
    "huggingface": "from datasets import load_dataset\n"
    'dataset = load_dataset("{path}", split="train").with_format("numpy")\nvalues = dataset[0]["{name}"]',
    "webdataset": "import webdataset\n"
    'dataset = webdataset.WebDataset("{path}/data/features-{{000000..{last:06d}}}.tar", shardshuffle=False).decode()\n'
    'values = next(iter(dataset))["{name}.npy"]',
    "hdf5": 'import h5py\nfile = h5py.File("{path}")\nvalues = file[{name!r}]',
}


@dataclass(frozen=True)
class Card:
    """The description of an export."""

    format: str
    store_format: int
    """version of the store's format"""
    entity: str
    view: str
    provenance: dict[str, Any]
    features: dict[str, dict[str, Any]]
    """column -> shape and dtype, as exported"""
    stored: dict[str, dict[str, Any]]
    """feature -> shape and dtype in the store"""
    columns: dict[str, str]
    """column of the catalog -> its Arrow type"""
    rows: int
    failed: int
    """rows left out"""
    absent: int
    """rows left out"""
    forgotten: int
    """rows left out; they are not counted as absent"""
    shards_per_part: int
    parts: list[list[int]]
    """first shard and rows of each part"""
    digest: str
    """sha256 of the exported rows' numbers and checksums"""
    license: str
    date: str
    """UTC, when the export began"""
    store: str = ""
    """path or URL of the store; empty in the exported files themselves"""
    snapshot: str | None = None
    """None: of the moment when the export began"""
    catalog: str = ""
    """sha256 of key and columns of the exported rows; empty where an export has no columns"""
    all_columns: bool = True
    """whether --columns was not given"""

    def as_json(self) -> str:
        """Return the card for programs."""
        return json.dumps({"kind": "stepdiff-export", "version": 1, **asdict(self)}, ensure_ascii=False, indent=1)

    def difference(self, other: "Card") -> str:
        """Return the fields of another export that differ, shortened; empty where its content would be the same."""
        return differences(asdict(self), asdict(other))

    def readme(self, path: str, more: Mapping[str, Any] | None = None, dataset: str | None = None) -> str:
        """Return the card for readers; `more` are further fields of its YAML header, `dataset` as of `how_to_open`."""
        header = {"license": self.license, "tags": ["features", "embeddings", "stepdiff"], **(more or {})}
        made = Provenance.from_dict(self.provenance)
        about = {
            "encoder": made.encoder,
            "weights (sha256)": made.weights,
            "layer": made.layer,
            "frames": made.frames,
            "crop": made.crop,
            "dtypes": json.dumps(made.dtypes),
            "store format": f"{FORMAT} {self.store_format}",
            **({"snapshot": self.snapshot} if self.snapshot else {}),
            "date": self.date,
        }
        counts = {name: getattr(self, name) for name in ("rows", "failed", "absent", "forgotten")}
        lines = [
            "---",
            yaml.safe_dump(header, sort_keys=False, allow_unicode=True, width=1000).rstrip(),
            "---",
            "",
            f"# {_code(self.view)}: features of {self.entity} by {_code(made.encoder)}",
            "",
            *(f"- {name}: {_code(value)}" for name, value in about.items()),
            f"- {', '.join(f'{name} {count:,}' for name, count in counts.items())} "
            "(rows that failed, are absent or were forgotten are left out)",
            "",
            "| feature | shape of a row | dtype | in the store |",
            "| --- | --- | --- | --- |",
            *(
                f"| {name} | {form['shape']} | {form['dtype']} | {self.stored.get(name, form)['dtype']} |"
                for name, form in self.features.items()
            ),
            "",
            f"Other columns: key{''.join(f', {_code(name)}' for name in self.columns)}.",
            *self._notes(),
            "",
            "```python",
            how_to_open(self.format, path, dataset or next(iter(self.features)), len(self.parts)),
            "```",
            "",
        ]
        return "\n".join(lines)

    def _notes(self) -> list[str]:
        notes = []
        if self.format in ("parquet", "lance"):
            notes.append("A feature is a list of its flattened row; the shape is in the field's metadata.")
        if self.format == "webdataset":
            notes.append("File names have the key percent-encoded, dots too; the JSON file has the key as it is.")
        if any(form["dtype"] == "int8" for form in self.features.values()):
            notes.append(f"An int8 value is level * scale, with one scale for every {BLOCK} channels of the last axis.")
        return notes and ["", *notes]


def differences(here: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Return the fields of a card that differ in another one, shortened. The order of features and columns counts."""
    found = []
    for name, a, b in ((name, value, other[name]) for name, value in here.items() if name not in _LOOSE):
        if a != b:
            found.append(_SAID.get(name, f"{name} {_short(a)} against {_short(b)}"))
        elif isinstance(a, dict) and list(a) != list(b):
            found.append(f"order of {name} {_short(', '.join(a))} against {_short(', '.join(b))}")
    return ", ".join(found)


def source(store: Store) -> dict[str, Any]:
    """Return the fields of a card that say which store it is."""
    path = str(store.path) if store.path.remote else os.path.realpath(str(store.path))
    return {"store": path, "snapshot": store.at}


def read_card(data: bytes) -> Card:
    """Return the card for programs; StepDiffError where it is not one."""
    try:
        values = json.loads(data)
        if values.pop("kind") != "stepdiff-export" or values.pop("version") != 1:
            raise ValueError("another kind or version")
        card = Card(**values)
        Provenance.from_dict(card.provenance)
        if not isinstance(card.columns, dict) or type(card.shards_per_part) is not int or card.shards_per_part < 1:
            raise ValueError("columns or parts")
        [Feature(tuple(form["shape"]), form["dtype"]) for form in (*card.features.values(), *card.stored.values())]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, StepDiffError) as error:
        raise StepDiffError(f"the card is damaged ({_short(error)})") from None
    return card


def make_card(
    store: Store,
    view: View,
    ok: Bool[np.ndarray, " rows"],
    format: str,
    features: Mapping[str, Feature],
    columns: Mapping[str, str],
    license: str,
    shards_per_part: int,
    catalog: str = "",
    all_columns: bool = True,
) -> Card:
    """Return the card of an export that begins now.

    Args:
        store: the store, or that of a snapshot.
        view: its view.
        ok: which rows of the catalog are exported.
        format: of the export.
        features: as exported, by column.
        columns: of the catalog, with their Arrow types.
        license: as the user gives it.
        shards_per_part: shards whose rows are one part.
        catalog: see `Card`.
        all_columns: see `Card`.
    """
    status = view.status()
    size = view.rows_per_shard * shards_per_part
    parts = []
    for first in range(0, len(ok), size):
        if count := int(ok[first : first + size].sum()):
            shard = first // view.rows_per_shard
            parts.append([shard, count])
    forgotten = store.forgotten(view.entity)["row"].to_numpy()
    forgotten = forgotten[forgotten < len(status)]
    return Card(
        format=format,
        store_format=VERSION,
        entity=view.entity,
        view=view.name,
        provenance=view.provenance.as_dict(),
        features={name: _form(feature) for name, feature in features.items()},
        stored={name: _form(feature) for name, feature in view.features.items()},
        columns=dict(columns),
        rows=int(ok.sum()),
        failed=int((status == FAILED).sum()),
        absent=int((status == ABSENT).sum()) - int((status[forgotten] == ABSENT).sum()),
        forgotten=len(forgotten),
        shards_per_part=shards_per_part,
        parts=parts,
        digest=_digest(view, ok),
        license=license,
        date=_now(),
        catalog=catalog,
        all_columns=all_columns,
        **source(store),
    )


def readme_name(format: str) -> str:
    """Return the name of the card for readers."""
    return "_README.md" if format == "parquet" else "README.md"


def how_to_open(format: str, path: str, name: str, parts: int = 1) -> str:
    """Return three lines of Python that open an export and take the values of the feature `name`; HDF5: dataset."""
    return _OPEN[format].format(path=path, name=name, last=parts - 1)


def _digest(view: View, ok: Bool[np.ndarray, " rows"]) -> str:
    found = hashlib.sha256()
    for start in range(0, len(ok), _WINDOW):
        rows = start + np.flatnonzero(ok[start : start + _WINDOW])
        if len(rows):
            found.update(rows.astype("<i8").tobytes())
            found.update(view.checksums(rows).astype("<u4").tobytes())
    return found.hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _form(feature: Feature) -> dict[str, Any]:
    return {"shape": list(feature.shape), "dtype": feature.dtype}


def _code(text: str) -> str:
    """Return a text of one line in backticks."""
    return f"`{' '.join(text.split()).replace('`', chr(39))}`"


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else f"{text[:80]}..."
