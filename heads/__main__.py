"""The commands of this room: python -m heads."""

from stepdiff_core.cli import command
from stepdiff_core.cli.command import choose

VERBS = {
    "train": ("heads.train", "train a head on cached features"),
    "words": ("heads.words", "fit what a clip shows of what words name, in closed form"),
    "embed": ("heads.embed", "write a contrastive head's embeddings as a view of the store"),
    "ask": ("heads.ask", "ask a trained head a question about two clips"),
    "differences": (
        "heads.differences",
        "find pairs that differ as two clips do, or as a text says",
    ),
    "evaluate": ("heads.evaluate", "answer a test set with a method, and score the answers"),
    "score": ("heads.score", "score a file of predictions"),
    "table": ("heads.table", "print one table of many evaluations"),
    "report": ("heads.report", "print the paper's tables from predictions"),
}


def main(argv: list[str] | None = None) -> int:
    return choose(
        "heads",
        "Train heads on cached features, and evaluate methods that compare clips.",
        VERBS,
        argv,
    )


if __name__ == "__main__":
    command.run(main)
