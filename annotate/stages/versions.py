"""Versions of a stage's output: one folder for all that was made alike.

    STORE/annotations/STAGE/VERSION/
        provenance.json            what made it; VERSION is the beginning of its sha256
        <shard>.parquet            key, kind, text, provenance, as heads.data.clip_texts reads them
        failures/<shard>.parquet   key, reason
        lock.json                  held by the run that writes

Guarantees
- another provenance is another folder
- of several versions none is taken unless it is named
- a failure that was answered since counts no more
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import polars as pl

from common.errors import StepDiffError
from common.io import sealed as table
from common.io.files import write_bytes
from common.io.places import Place
from common.io.seal import BLANK
from store import Store
from store.format.layout import read_json, write_json
from store.io import failures

COLUMNS = ("key", "kind", "text", "provenance")
SCHEMA = dict.fromkeys(COLUMNS, pl.String)
_DIGITS = 16


class Version:
    """One version of a stage, which may not be there yet."""

    def __init__(self, store: Store, stage: str, provenance: Mapping[str, Any]) -> None:
        self.stage, self.provenance = stage, dict(provenance)
        self.line = json.dumps(self.provenance, sort_keys=True, ensure_ascii=False)
        """the provenance as the rows carry it"""
        self.name = hashlib.sha256(self.line.encode()).hexdigest()[:_DIGITS]
        self.folder: Place = store.path / "annotations" / stage / self.name

    def create(self) -> None:
        """Write what made it, where it is not there."""
        if not (self.folder / "provenance.json").exists():
            write_json(self.folder / "provenance.json", {"provenance": self.provenance, "seal": BLANK})

    def shard(self, number: int) -> pl.DataFrame:
        """The rows of a shard: key, kind, text, provenance."""
        return _read(self.folder / _name(number), SCHEMA)

    def shard_failures(self, number: int) -> pl.DataFrame:
        """Key and reason of what failed in a shard and was not answered since."""
        failed = _read(self.folder / "failures" / _name(number), failures.SCHEMA)
        return failed.join(self.shard(number), on="key", how="anti")

    def write(self, number: int, rows: pl.DataFrame, failed: pl.DataFrame) -> None:
        """A shard's rows and failures, in place of those that stand. StepDiffError where the disk refuses."""
        for path, frame in (
            (self.folder / _name(number), rows),
            (self.folder / "failures" / _name(number), failed),
        ):
            if frame.height or path.exists():
                data = table.encode(frame)
                write_bytes(path, data)

    def texts(self, kind: str) -> dict[str, str]:
        """Key and text of everything said of one kind."""
        rows = self._all(self.folder, SCHEMA).filter(pl.col("kind") == kind)
        return dict(zip(rows["key"], rows["text"], strict=True))

    def keys(self) -> pl.DataFrame:
        """The keys of everything that was answered, each once."""
        return self._all(self.folder, SCHEMA).select("key").unique(maintain_order=True)

    def failures(self) -> pl.DataFrame:
        """Key and reason of everything that failed and was not answered since."""
        failed = self._all(self.folder / "failures", failures.SCHEMA)
        return failed.join(self._all(self.folder, SCHEMA), on="key", how="anti")

    def _all(self, folder: Place, schema: Mapping[str, Any]) -> pl.DataFrame:
        paths: list[Place] = sorted(folder.glob("*.parquet"))
        parts = [table.read(path) for path in paths]
        return pl.concat([pl.DataFrame(schema=schema), *parts])


def versions(store: Store, stage: str) -> list[Version]:
    """The versions of a stage that stand. StepDiffError: a damaged one."""
    folder = store.path / "annotations" / stage
    found: list[Place] = sorted(folder.glob("*/provenance.json"))
    return [Version(store, stage, read_json(path)["provenance"]) for path in found]


def chosen(store: Store, stage: str, name: str | None) -> Version:
    """The version of that name (its first letters do), or the only one. StepDiffError: none, or which one?"""
    there = versions(store, stage)
    found = [version for version in there if version.name.startswith(name or "")]
    if len(found) == 1:
        return found[0]
    if not there:
        raise StepDiffError(f"{store.path}: no {stage} in it yet; run python -m annotate.{stage.partition('-')[0]}")
    raise StepDiffError(
        f"{store.path}: {len(found)} versions of {stage}{f' begin with {name!r}' if name else ''}; name one of "
        f"{', '.join(version.name for version in there)} (their provenance.json says what made them)"
    )


def _name(number: int) -> str:
    return f"{number:06d}.parquet"


def _read(path: Place, schema: Mapping[str, Any]) -> pl.DataFrame:
    return table.read(path) if path.exists() else pl.DataFrame(schema=schema)
