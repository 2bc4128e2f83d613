"""stepdiff annotate lists the commands, in the order in which a data set passes them."""

from stepdiff_core.cli import command
from stepdiff_core.cli.command import choose

VERBS = {
    "manifest": (
        "stepdiff.annotate.manifest",
        "published annotations, captioned images -> the manifest that python -m featurize reads",
    ),
    "transcribe": (
        "stepdiff.annotate.transcribe",
        "videos, or subtitles beside them -> what is said in them, and when",
    ),
    "align": (
        "stepdiff.annotate.align",
        "raw speech -> the clips that it is about, by a contrastive head",
    ),
    "captions": ("stepdiff.annotate.captions", "clips -> action captions, or lists of objects"),
    "ground": (
        "stepdiff.annotate.ground",
        "lists of objects -> the objects that a clip really shows",
    ),
    "describe": (
        "stepdiff.annotate.describe",
        "narration, captions and objects -> one step description per clip",
    ),
    "pairs": ("stepdiff.annotate.pairs", "clips -> pairs that show one step in two videos"),
    "pairqa": (
        "stepdiff.annotate.pairqa",
        "pairs and step descriptions -> questions and answers for training",
    ),
    "audit": (
        "stepdiff.annotate.audit",
        "questions and answers -> figures, leaks, and a page to read",
    ),
    "agreement": ("stepdiff.annotate.agreement", "answers of people -> how far they agree"),
    "statistics": (
        "stepdiff.annotate.statistics",
        "answers of people or test sets -> the statistics of supplement S2",
    ),
    "export": ("stepdiff.annotate.export", "answers of people -> test sets, CSV, Label Studio"),
}


def main(argv: list[str] | None = None) -> int:
    """Run the command that the command line names; `stepdiff annotate COMMAND` does the same."""
    return choose(
        "stepdiff.annotate", "Texts about clips, and training data made of them.", VERBS, argv
    )


if __name__ == "__main__":
    command.run(main)
