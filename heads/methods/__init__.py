"""Methods that compare clips: video language models, embeddings in one space, texts, controls, and
plug-ins.

`python -m heads.evaluate --method package.module:Class` evaluates a class of your own that follows
`Method`. A package can give it a short name in its pyproject.toml:

    [project.entry-points."stepdiff.methods"]
    mean-tokens = "package.module:MeanTokens"
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from stepdiff_core.tasks.benchmarks.rows import Choice, Ranking, Rating, Writing
    from stepdiff_core.tasks.testsets import DiffCap, DiffMCQ, DiffRank
    from store import Store


class Method(Protocol):
    """A method that answers the rows of test sets from cached features (heads.data.clips.Features).

    Define only the functions of the tasks that your method answers: heads.evaluate refuses the
    others in one line. Rows come in batches of `--rows-at-once`; return one answer for each row, in
    order.

    Three attributes of the class, all optional, register it for tables and pages
    (heads.methods.registry): `title`, its name in tables (default: the value of --method);
    `regime`, its training data, "none", "s1", "supervised" or "truth" (default: None, unknown);
    `control`, whether it is a control (default: False).
    """

    def __init__(self, store: "Store", view: str | None, device: str) -> None:
        """Prepare the method. view: the value of --view; device: cpu or cuda."""

    def score_options(self, rows: "Sequence[DiffMCQ]") -> list[list[float]]:
        """Return a score for each (reference, candidate) pair of `row.options`; the highest is the
        choice."""
        ...

    def rank(self, rows: "Sequence[DiffRank | Rating | Ranking]") -> list[list[float]]:
        """Return how similar each clip of `row.targets` is to `row.reference` in `row.category`.

        A benchmark's Rating is a row with one target.
        """
        ...

    def caption(self, rows: "Sequence[DiffCap]") -> list[str]:
        """Return a sentence that says how `row.candidate` differs from `row.reference` in
        `row.category`."""
        ...

    def choose(self, rows: "Sequence[Choice]") -> list[list[float]]:
        """Return a score for each of `row.options`, answers to `row.question` about `row.clips`."""
        ...

    def write(self, rows: "Sequence[Writing]") -> list[str]:
        """Return the answer to `row.prompt` about `row.clips`."""
        ...
