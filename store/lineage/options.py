"""Options of `python -m store lineage`."""

from dataclasses import dataclass

from store.verbs.options import Entity


@dataclass(frozen=True)
class LineageOptions:
    """Say where rows come from, and what was trained on them; or what a head was trained on.

    Of a clip: its metadata, in each view its status, the encoder with its weights, and when and on what the row was
    written; the snapshots that name it; the heads that may have drawn it in training. Of a head, given as the
    folder of its run: the store, snapshot and views that it read, how many clips trained it, and the runs before it."""

    path: str
    """folder of the store"""
    names: tuple[str, ...]
    """ids of clips (or texts), or folders of runs of heads.train"""
    heads: str | None = None
    """folder with runs of heads.train, in it or up to two levels below; by default the one that contains the store"""
    entity: Entity = "clips"
    """what the ids name: clips or texts"""
