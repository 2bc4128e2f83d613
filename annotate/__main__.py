"""python -m annotate lists the commands, in the order in which a data set passes them."""

from common.cli import command
from common.cli.command import choose

VERBS = {
    "manifest": (
        "annotate.manifest",
        "published annotations, captioned images -> the manifest that python -m featurize reads",
    ),
    "align": ("annotate.align", "raw speech -> the clips that it is about, by a contrastive head"),
    "captions": ("annotate.captions", "clips -> action captions, or lists of objects"),
    "ground": ("annotate.ground", "lists of objects -> the objects that a clip really shows"),
    "describe": ("annotate.describe", "narration, captions and objects -> one step description per clip"),
    "pairs": ("annotate.pairs", "clips -> pairs that show one step in two videos"),
    "pairqa": ("annotate.pairqa", "pairs and step descriptions -> questions and answers for training"),
    "audit": ("annotate.audit", "questions and answers -> figures, leaks, and a page to read"),
    "agreement": ("annotate.agreement", "answers of people -> how far they agree"),
    "statistics": ("annotate.statistics", "answers of people or test sets -> the statistics of supplement S2"),
    "export": ("annotate.export", "answers of people -> test sets, CSV, Label Studio"),
}


def main(argv: list[str] | None = None) -> int:
    """Run the command that the command line names; `python -m annotate.COMMAND` does the same."""
    return choose("annotate", "Texts about clips, and training data made of them.", VERBS, argv)


if __name__ == "__main__":
    command.run(main)
