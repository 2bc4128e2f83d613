"""Which clips trained the contrastive head that wrote a view: recorded in the store, because the run may be elsewhere.

    STORE/annotations/trained_on/<first digits of the sha256 of the head's weights>/
        provenance.json           the run, its weights, and the number of hashes of each kind
        <kind>-<part>.parquet     hash (heads.data.trained_on)

Guarantees
- a view of a frozen encoder has nothing to check
- a view whose head left no record, or whose record is damaged, is reported
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from common.errors import StepDiffError
from common.io import sealed as table
from common.io.files import make_folder, write_bytes
from common.io.places import Place
from common.io.seal import BLANK
from heads.data import trained_on
from heads.data.trained_on import KINDS, Hashes, Source
from heads.training import lineage
from store import Store
from store.format.layout import read_json, write_json

ENCODER = "contrastive head"
"""prefix of the encoder in such a view's provenance"""
_DIGITS = 16


def _folder(store: Store, weights: str) -> Place:
    return store.path / "annotations" / "trained_on" / weights[:_DIGITS]


def keep(store: Store, weights: str, run: Path) -> None:
    """Record in the store what trained the head of a run, if the run has a record; weights: their sha256.

    The caller holds the store's lock.
    """
    record, folder = lineage.read(run).get("trained_on"), _folder(store, weights)
    if record is None or (folder / "provenance.json").exists():
        return
    trained_on.check(run, record)
    make_folder(folder)
    for kind in KINDS:
        for number, block in enumerate(trained_on.blocks(run, kind)):
            data = table.encode(pl.DataFrame({"hash": block}))
            write_bytes(folder / f"{kind}-{number:06d}.parquet", data)
    made = {"head": str(run), "weights": weights, **record}
    write_json(folder / "provenance.json", {"provenance": made, "seal": BLANK})  # last: the hashes are complete


def of_view(store: Store, view: str) -> Source | None:
    """Return what trained the head that wrote a view; None for a view of a frozen encoder.

    Raises:
        StepDiffError: the record is damaged.
    """
    provenance = store.view("clips", view).provenance
    if not provenance.encoder.startswith(ENCODER):
        return None
    name, folder = f"view {view}", _folder(store, provenance.weights)
    try:
        made = read_json(folder / "provenance.json")["provenance"]
    except (FileNotFoundError, NotADirectoryError):
        return Source(name, None, (f"{name} of {store.path}",))
    if made["weights"] != provenance.weights:
        raise StepDiffError(
            f"{folder}: the record is of another head than view {view}; run python -m heads.embed again"
        )
    name = f"{name} (head {made['head']})"
    return Source(name, lambda kind: _blocks(folder, kind, made[kind]), tuple(made["unrecorded"]))


def _blocks(folder: Place, kind: str, count: int) -> Iterator[Hashes]:
    """Yield the hashes of a kind in blocks. StepDiffError: not `count` of them."""
    found = 0
    files: list[Place] = sorted(folder.glob(f"{kind}-*.parquet"))
    for file in files:
        block = table.read(file)["hash"].to_numpy()
        found += len(block)
        yield block
    if found != count:
        raise StepDiffError(
            f"{folder}: holds {found} hashes of {kind} where {count} were written; embed the view again"
        )
