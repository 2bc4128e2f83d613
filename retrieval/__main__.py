"""Neighbours, near-duplicates and hard negatives over a feature store.

    python -m retrieval build --store data/features --view efficientnet-lite0
    python -m retrieval plan --clips 136e6 --dim 768
    python -m retrieval query --store data/features --view efficientnet-lite0 --clip ID -k 10
    python -m retrieval negatives --store data/features --view efficientnet-lite0 \\
        --test-set data/kitchen/diffcap_test.jsonl --out data/diffmcq.jsonl
    python -m retrieval neighbours --store data/features --view efficientnet-lite0 --out data/neighbours.parquet
    python -m retrieval duplicates --store data/features --view efficientnet-lite0 --against split
    python -m retrieval atlas --store data/features --view efficientnet-lite0 --out data/map.parquet
"""

from common.cli import command
from common.cli.command import choose

VERBS = {
    "build": ("retrieval.verbs.build", "build the index of a view, or add new rows to it"),
    "plan": ("retrieval.verbs.plan", "estimate the bytes, memory and hours of an index"),
    "query": ("retrieval.verbs.query", "find the clips nearest to a clip, pair, text or file"),
    "negatives": ("retrieval.verbs.negatives", "make DiffMCQ questions from a DiffCap test set"),
    "neighbours": ("retrieval.verbs.neighbours", "find the nearest clips of the same step, for every clip"),
    "duplicates": ("retrieval.verbs.duplicates", "find clips that show the same footage in different videos"),
    "atlas": ("retrieval.verbs.atlas", "write a 2-D map of a view as Parquet for Embedding Atlas"),
}


def main(argv: list[str] | None = None) -> int:
    return choose("retrieval", __doc__ or "", VERBS, argv)


if __name__ == "__main__":
    command.run(main, "finished work is kept; run the same command for the rest")
