"""The card of an export: features, number of rows, and how to open them.

`_export.json` in the folder of an export is the card for programs, written first; README.md is the
card for readers, written last. Parquet has it as `_README.md`, because pandas and pyarrow read all
files of a folder but those whose names begin with `_` or `.`; Hugging Face looks for README.md.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from jaxtyping import Bool

from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.sealed import BLANK, is_sealed, seal
from store.exchange.arrow import CHECKSUM, KEY, catalog_digest, feature_fields
from store.feature_store import Store
from store.format.layout import FORMAT, VERSION
from store.format.quantise import BLOCK
from store.io.reader import ABSENT, FAILED
from store.provenance import Feature, Provenance
from store.view import View

NAME = "_export.json"
_WINDOW = 2**16  # rows whose checksums are read at a time
_LOOSE = ("failed", "absent", "forgotten", "date")
"""fields that may differ between the runs of one export"""
_CHANGED = {
    "digest": "the rows or their features (those of a snapshot, STORE@NAME, do not change)",
    "catalog": (
        "keys or metadata of the rows in the catalog (those of a snapshot, STORE@NAME, do not "
        "change)"
    ),
}
"""fields whose values say nothing to a reader"""
_OPEN = {
    "parquet": 'import pandas as pd\nframe = pd.read_parquet("{path}")\nvalues = frame["{name}"]',
    "lance": (
        'import lance\ndataset = lance.dataset("{path}")\nvalues = dataset.take([0])["{name}"]'
    ),
    "huggingface": (
        "from datasets import load_dataset\n"
        'dataset = load_dataset("{path}", split="train").with_format("numpy")\nvalues = '
        'dataset[0]["{name}"]'
    ),
    "webdataset": (
        "import webdataset\n"
        'dataset = webdataset.WebDataset("{path}/data/features-{{000000..{last:06d}}}.tar", '
        'shardshuffle=False).decode()\nvalues = next(iter(dataset))["{name}.npy"]'
    ),
    "hdf5": 'import h5py\nfile = h5py.File("{path}")\nvalues = file["{name}"][0]',
}


_VERSION = 2


@dataclass(frozen=True)
class ExportCard:
    """The description of an export: its options, and the content of the store."""

    version: int
    """of the card"""
    format: str
    store: str
    """path or URL of the store; empty in the exported files themselves"""
    snapshot: str | None
    """None: the live store, as it was when the export began"""
    entity: str
    view: str
    provenance: dict[str, Any]
    features: dict[str, dict[str, Any]]
    """column -> shape and dtype, as exported"""
    stored: dict[str, dict[str, Any]]
    """feature -> shape and dtype in the store"""
    columns: dict[str, str]
    """column of the catalog -> its Arrow type"""
    license: str
    rows: int
    digest: str
    """sha256 of the exported rows' numbers and checksums"""
    catalog: str
    """sha256 of key and columns of the exported rows"""
    parts: list[list[int]]
    """first shard and rows of each part"""
    store_format: int
    """version of the store's format"""
    failed: int
    """rows left out"""
    absent: int
    """rows left out"""
    forgotten: int
    """rows left out; they are not counted as absent"""
    date: str
    """UTC, when the export began"""

    def as_json(self) -> str:
        """Return the card for programs."""
        card = {"kind": "stepdiff-export", **asdict(self), "seal": BLANK}
        return seal(json.dumps(card, ensure_ascii=False, indent=1).encode()).decode()

    def difference(self, other: "ExportCard") -> str:
        """Return the first field that differs in another export, shortened; empty if both have the
        same content.

        The order of features and columns counts: Lance numbers the columns of each part by it.
        """
        for name, value in asdict(self).items():
            theirs = getattr(other, name)
            if value != theirs and name not in _LOOSE:
                return _CHANGED.get(name, f"{name} {_short(value)} against {_short(theirs)}")
            if isinstance(value, dict) and list(value) != list(theirs):
                return (
                    f"order of {name} {_short(', '.join(value))} against "
                    f"{_short(', '.join(theirs))}"
                )
        return ""

    def readme(self, path: str, more: dict[str, Any]) -> str:
        """Return the card for readers, with the header that Hugging Face reads; `more` is added to
        it."""
        header: dict[str, Any] = {
            "license": self.license,
            "tags": ["features", "embeddings", "stepdiff"],
            **more,
        }
        if self.format == "huggingface":
            files = [{"split": "train", "path": "data/*.parquet"}]
            header["configs"] = [{"config_name": "default", "data_files": files}]
        made = {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in self.provenance.items()
        }
        snapshot = {"snapshot": self.snapshot} if self.snapshot else {}
        about = {
            **made,
            "store format": f"{FORMAT} {self.store_format}",
            **snapshot,
            "date": self.date,
        }
        counts = {name: getattr(self, name) for name in ("rows", "failed", "absent", "forgotten")}
        notes = []
        if self.format != "hdf5":
            notes.append(
                f"{CHECKSUM}: the crc32c of key and metadata, and of each feature, which store "
                "import compares."
            )
        if self.format in ("parquet", "lance"):
            notes.append(
                "A feature is a list of its flattened row; the shape is in the field's metadata."
            )
        if self.format == "webdataset":
            notes.append(
                "File names have the key percent-encoded, dots too; the JSON file has the key as "
                "it is."
            )
        if any(form["dtype"] == "int8" for form in self.features.values()):
            notes.append(
                f"An int8 value is level * scale, with one scale for every {BLOCK} channels of the "
                "last axis."
            )
        lines = [
            "---",
            yaml.safe_dump(header, sort_keys=False, allow_unicode=True, width=1000).rstrip(),
            "---",
            "",
            f"# {_code(self.view)}: features of {self.entity} by {_code(made['encoder'])}",
            "",
            *(f"- {name}: {_code(value)}" for name, value in about.items()),
            f"- {', '.join(f'{name} {count:,}' for name, count in counts.items())} "
            "(rows that failed, are absent or were forgotten are left out)",
            "",
            "| feature | shape of a row | dtype | in the store |",
            "| --- | --- | --- | --- |",
            *(
                f"| {name} | {form['shape']} | {form['dtype']} | "
                f"{self.stored.get(name, form)['dtype']} |"
                for name, form in self.features.items()
            ),
            "",
            f"Other columns: key{''.join(f', {_code(name)}' for name in self.columns)}.",
            *(["", *notes] if notes else []),
            "",
            "```python",
            self.how_to_open(path),
            "```",
            "",
        ]
        return "\n".join(lines)

    def how_to_open(self, path: str) -> str:
        """Return three lines of Python that open the export at `path` and take the values of its
        first feature."""
        return _OPEN[self.format].format(
            path=path, name=next(iter(self.features)), last=len(self.parts) - 1
        )


def read_card(data: bytes) -> ExportCard:
    """Return the card for programs; StepDiffError if it is not one."""
    try:
        values = json.loads(data)
        if values["kind"] != "stepdiff-export" or values["version"] != _VERSION:
            raise ValueError("another kind or version")
        if not is_sealed(data):
            raise ValueError("its checksum differs")
        card = ExportCard(**{field.name: values[field.name] for field in fields(ExportCard)})
        Provenance.from_dict(card.provenance)
        if not isinstance(card.columns, dict):
            raise ValueError("columns")
        [
            Feature(tuple(form["shape"]), form["dtype"])
            for form in (*card.features.values(), *card.stored.values())
        ]
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
        StepDiffError,
    ) as error:
        raise StepDiffError(f"the card is damaged ({_short(error)})") from None
    return card


def make_card(
    store: Store,
    view: View,
    ok: Bool[np.ndarray, " rows"],
    shards: int,
    format: str,
    schema: pa.Schema,
    license: str,
) -> ExportCard:
    """Return the card of an export that begins now, of the rows that are `ok`; a part has the rows
    of some `shards`."""
    features, status = feature_fields(schema), view.status()
    columns = {
        field.name: str(field.type) for field in schema if field.name not in (KEY, *features)
    }
    starts = range(0, len(ok), view.rows_per_shard * shards)
    counts = [int(ok[first : first + starts.step].sum()) for first in starts]
    forgotten = store.forgotten(view.entity)["row"].to_numpy()
    forgotten = forgotten[forgotten < len(status)]
    return ExportCard(
        version=_VERSION,
        format=format,
        store=str(store.path) if store.path.remote else os.path.realpath(str(store.path)),
        snapshot=store.at,
        entity=view.entity,
        view=view.name,
        provenance=view.provenance.as_dict(),
        features={name: _form(feature) for name, feature in features.items()},
        stored={name: _form(feature) for name, feature in view.features.items()},
        columns=columns,
        license=license,
        rows=int(ok.sum()),
        digest=_digest(view, ok),
        catalog=catalog_digest(view.catalog, list(columns), ok),
        parts=[
            [first // view.rows_per_shard, count]
            for first, count in zip(starts, counts, strict=True)
            if count
        ],
        store_format=VERSION,
        failed=int((status == FAILED).sum()),
        absent=int((status == ABSENT).sum()) - int((status[forgotten] == ABSENT).sum()),
        forgotten=len(forgotten),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _digest(view: View, ok: Bool[np.ndarray, " rows"]) -> str:
    digest = hashlib.sha256()
    for start in range(0, len(ok), _WINDOW):
        rows = start + np.flatnonzero(ok[start : start + _WINDOW])
        if len(rows):
            digest.update(rows.astype("<i8").tobytes())
            digest.update(view.checksums(rows).astype("<u4").tobytes())
    return digest.hexdigest()


def _form(feature: Feature) -> dict[str, Any]:
    return {"shape": list(feature.shape), "dtype": feature.dtype}


def _code(text: str) -> str:
    """Return a text of one line in backticks."""
    return f"`{' '.join(text.split()).replace('`', chr(39))}`"


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else f"{text[:80]}..."
