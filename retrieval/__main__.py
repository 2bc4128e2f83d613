"""Neighbours, near-duplicates and hard negatives over a feature store.

    python -m retrieval build --store data/features --view efficientnet-lite0
    python -m retrieval query --store data/features --view efficientnet-lite0 --clip ID -k 10
    python -m retrieval negatives --store data/features --view efficientnet-lite0 \\
        --test-set data/kitchen/diffcap_test.jsonl --out data/diffmcq.jsonl
    python -m retrieval neighbours --store data/features --view efficientnet-lite0 \\
        --out data/neighbours.parquet
    python -m retrieval duplicates --store data/features --view efficientnet-lite0 --against split
"""

from stepdiff_core.cli import command
from stepdiff_core.cli.command import choose

VERBS = {
    "build": ("retrieval.verbs.build", "build the index of a view, or add new rows to it"),
    "query": ("retrieval.verbs.query", "find the clips nearest to a clip, pair, text or file"),
    "negatives": (
        "retrieval.verbs.files:negatives_main",
        "make DiffMCQ questions from a DiffCap test set",
    ),
    "neighbours": (
        "retrieval.verbs.files:neighbours_main",
        "find the nearest clips of the same step, for every clip",
    ),
    "duplicates": (
        "retrieval.verbs.files:duplicates_main",
        "find the same footage in different videos",
    ),
}


def main(argv: list[str] | None = None) -> int:
    return choose("retrieval", __doc__ or "", VERBS, argv)


if __name__ == "__main__":
    command.run(main, "finished work is kept; run the same command for the rest")
