"""`python -m store lineage`."""

from dataclasses import asdict, dataclass
from typing import Any

from stepdiff.common.cli.options import parse
from store.verbs.options import Entity, InStore

_DIGITS = 12  # of a sha256 that are shown


@dataclass(frozen=True)
class LineageOptions(InStore):
    """Say where rows come from, and what was trained on them; or what a head was trained on.

    Of a clip: its metadata, in each view its status, the encoder with its weights, and when and on what the row was
    written; the snapshots that name it; the heads that may have drawn it in training. Of a head, given as the
    folder of its run: the store, snapshot and views that it read, how many clips trained it, and the runs before it."""

    names: tuple[str, ...]
    """ids of clips (or texts), or folders of runs of heads.train"""
    heads: str | None = None
    """folder with runs of heads.train, in it or up to two levels below; by default the one that contains the store"""
    entity: Entity = "clips"
    """what the ids name: clips or texts"""


def lineage(argv: list[str]) -> int:
    """Say where rows come from, and what was trained on them."""

    def run(given: LineageOptions) -> dict[str, Any]:
        from store.lineage.answers import RowLineage, lineage

        answers = lineage(given)
        return {
            "path": given.path,
            "rows": [asdict(one) for one in answers if isinstance(one, RowLineage)],
            "heads": [asdict(one) for one in answers if not isinstance(one, RowLineage)],
        }

    def show(record: dict[str, Any]) -> None:
        for row in record["rows"]:
            _show_row(row)
        for head in record["heads"]:
            _show_head(head)

    return parse(LineageOptions, argv, "store lineage", None, run, show, ("path", "names"))


def _show_row(row: dict[str, Any]) -> None:
    print(f"{row['key']}: row {row['row']:,} of {row['entity']}")
    if row["forgotten"] is not None:
        print(f"  forgotten: {row['forgotten'] or 'no reason given'}")
    for name, value in row["metadata"].items():
        print(f"  {name}: {value}")
    for view in row["views"]:
        made, written = view["provenance"], view["written"]
        print(f"  view {view['view']}: {view['status']}" + (f" ({view['reason']})" if "reason" in view else ""))
        if view["status"] in ("absent", "forgotten"):
            continue
        print(f"    encoder {made['encoder']}, weights {made['weights'][:_DIGITS]}, layer {made['layer']}")
        print(f"    frames {made['frames']}; crop {made['crop']}")
        if not written:
            print("    written: not recorded")
        else:
            date, *more = written.pop("date"), *(f"{name} {value}" for name, value in written.items())
            print(f"    written {', '.join([date or 'on an unknown date', *more])}")
    for what, name in (("in snapshots", "snapshots"), ("may have trained", "trained"), ("not known of", "unknown")):
        if row[name]:
            print(f"  {what}: {'; '.join(row[name])}")


def _show_head(head: dict[str, Any]) -> None:
    print(f"{head['run']}: a head")
    if (store := head["store"]) is None:
        print("  store: not recorded, an earlier version of this program trained it")
    else:
        at = "no snapshot" if store["at"] is None else f"snapshot {store['at']}"
        print(f"  store: {store['path']}, {at}; commit {', '.join(f'{v} {c}' for v, c in store['commits'].items())}")
    for name, made in head["reads"].items():
        if isinstance(made, dict):
            print(f"  {name}: encoder {made['encoder']}, weights {made['weights'][:_DIGITS]}, layer {made['layer']}")
        else:
            print(f"  {name.replace('_', ' ')}: {str(made)[:_DIGITS]}")
    clips = "not recorded" if head["clips"] is None else f"{head['clips']:,}"
    print(f"  clips that may have trained it: {clips}")
    for file, digest in head["data"].items():
        print(f"  data: {file} ({digest[:_DIGITS]})")
    if head["starts_from"]:
        print(f"  starts from: {' <- '.join(head['starts_from'])}")
