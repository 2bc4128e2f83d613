"""The contract between a stage and the model that does its work, and the options of every stage.

It imports nothing heavy, so that the command lines of stages start fast.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from heads.llm.model import Unanswered
from stepdiff_core.cli.options import FailureOptions

SHOWN = 5  # failures in a record
# how to go on after an interrupt
HINT = "answers so far are kept; run the same command for the rest"


Item = Mapping[str, Any]  # `key`, and the fields that the model reads
Answer = Mapping[str, str] | Unanswered  # kind -> text, or why there is none


@runtime_checkable
class Annotator(Protocol):
    """A loaded model that answers the items of a stage."""

    def annotate(self, items: Sequence[Item]) -> Iterator[tuple[str, Answer]]:
        """Yield key and answer of every item, in any order. StepDiffError: the remaining items
        cannot be answered."""


@runtime_checkable
class StageJob(Protocol):
    """The message to a worker: all that it needs to load an Annotator, in a few bytes."""

    def provenance(self) -> dict[str, Any]:
        """Return everything that determines the answers: model, sha256 of weights and prompt,
        sampling, inputs."""

    def load(self, device: str, threads: int) -> Annotator:
        """Load the model on `device` (cpu or cuda), with at most `threads` CPU threads."""


@dataclass(frozen=True, kw_only=True)
class WorkOptions(FailureOptions):
    retry_failed: bool = False
    """try items again that failed in an earlier run"""
    workers: int | None = None
    """processes that each load the model; null: one a GPU, else one for up to eight CPUs. One is
    this process"""
    device: str = "auto"
    """where the model computes: auto, cpu, cuda"""
    address: str | None = None
    """Ray cluster to join, auto or HOST:6379; local: Ray is started here; null: RAY_ADDRESS, else
    Ray is started here where more than one worker is needed"""

    @property
    def served(self) -> bool:
        """Whether the model computes at a server, so that no worker needs a GPU."""
        return False


@dataclass(frozen=True, kw_only=True)
class StageOptions(WorkOptions):
    store: str
    """feature store; answers are written into its folder"""


def plain(text: str) -> str:
    """Return the text without halves of surrogate pairs and NUL, which UTF-8 or readers of files
    refuse."""
    return text.encode("utf-8", "replace").decode().replace("\0", "").strip()


def show(record: dict[str, Any]) -> None:
    print(
        "{stage} {version}: {done} of {asked} done in {seconds:.0f} s, {already} there "
        "already".format(**record)
    )
    show_failures(record, "key", f", in {record['folder']}/failures")
    if record["failed"]:
        print(f"{record['failed']} failed; fix the cause and run it again with --retry-failed")
    if record["absent"]:
        print(f"{record['absent']} are not done: run the same command again")
    print(f"texts: {record['folder']}")


def show_failures(record: dict[str, Any], name: str, where: str) -> None:
    """Print the first failures of a record, each by its field `name`, and `where` the others
    are."""
    for failure in record["failures"][:SHOWN]:
        print(f"  failed: {failure[name]}: {failure['reason']}")
    if record["failed"] > SHOWN:
        print(f"  ... and {record['failed'] - SHOWN} more{where}")
