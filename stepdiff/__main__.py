"""The command `stepdiff`: all commands of the project, by what a user wants to do."""

from stepdiff_core.cli import command
from stepdiff_core.cli.command import choose

GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "get something to work on": {
        "kitchen": ("stepdiff.kitchen.__main__", "a rendered sample world with exact ground truth"),
        "weights": (
            "stepdiff_core.weights.__main__",
            "fetch and check the weights of encoders and language models",
        ),
    },
    "videos -> features -> neighbours": {
        "featurize": (
            "featurize.__main__",
            "run an encoder over videos, images or texts, on one machine or on Ray",
        ),
        "store": (
            "store.__main__",
            "look into a feature store, verify it, tag it, import and export",
        ),
        "query": ("retrieval.verbs.query", "the nearest clips of a clip, a video file or words"),
        "retrieval": (
            "retrieval.__main__",
            "indexes, neighbours, hard negatives, alignment, duplicates",
        ),
    },
    "train and evaluate": {
        "learn": (
            "stepdiff.annotate.learning.__main__",
            "a head of words from your own videos and what is said in them",
        ),
        "words": ("heads.words", "word evidence, in closed form from cached features"),
        "train": ("heads.train", "projectors, language models and contrastive heads, by a recipe"),
        "embed": ("heads.embed", "write the embeddings of a contrastive head into the store"),
        "evaluate": ("heads.evaluate", "answer a test set or a benchmark, and score it"),
        "score": ("heads.score", "score predictions of any system"),
        "table": ("heads.table", "one table of many evaluations"),
        "report": (
            "stepdiff.comparison.sheet",
            "the tables of the paper, with paired tests; pairs as a picture",
        ),
    },
    "ask and look": {
        "compare": ("stepdiff.comparison.__main__", "two video files: how do they differ?"),
        "ask": ("heads.ask", "a question about two clips of a store"),
        "differences": (
            "heads.differences",
            "pairs of clips that differ as two clips do, or as a sentence says",
        ),
        "app": (
            "stepdiff.app.__main__",
            "pages in a browser: explore, ask, compare methods, annotate",
        ),
    },
    "make training data": {
        "annotate": (
            "stepdiff.annotate.__main__",
            "captions, descriptions and paired questions; answers of people",
        ),
        "people": ("stepdiff.app.people", "people who annotate, and their personal links"),
    },
}


def main(argv: list[str] | None = None) -> int:
    """Run the command that the command line names."""
    width = max(len(verb) for verbs in GROUPS.values() for verb in verbs)
    lines = ["Compare two how-to videos, on a store of cached features."]
    for title, verbs in GROUPS.items():
        lines += [
            "",
            f"{title}:",
            *(f"  {verb:<{width}}  {about}" for verb, (_, about) in verbs.items()),
        ]
    everything = {verb: entry for verbs in GROUPS.values() for verb, entry in verbs.items()}
    return choose("stepdiff", "\n".join(lines), everything, argv, listed=False)


def script() -> None:
    """Run `main` as the installed script does."""
    command.run(main)


if __name__ == "__main__":
    script()
