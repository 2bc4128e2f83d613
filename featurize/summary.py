"""The summary of a run, in figures and in words."""

from dataclasses import dataclass, field

import numpy as np

from featurize.plan import FORGOTTEN, Plan
from stepdiff.common.cli.options import incomplete
from store import Store
from store.view import ABSENT, FAILED, OK

SHOWN = 5
"""reasons that the words give"""
MOST_FAILURES = 10_000
"""reasons that the figures give"""


@dataclass(frozen=True)
class Summary:
    """Counts are of the rows asked for."""

    entity: str
    view: str
    store: str
    asked: int
    done: int
    """done by this run"""
    already: int
    """there already"""
    failed: int
    """failed, by this run or an earlier one"""
    absent: int = 0
    """not done, because their shard could not be written"""
    forgotten: int = 0
    """left out, because they were forgotten"""
    repeated: int = 0
    """clips of this run that show fewer frames than the encoder sees"""
    truncated: int = 0
    """texts of this run of more tokens than the encoder sees"""
    seconds: float = 0.0
    """that this run took"""
    errors: list[str] = field(default_factory=list)
    """why shards could not be written"""
    failures: list[dict[str, str]] = field(default_factory=list)
    """key and reason of what failed, of the first 10,000"""
    failures_in: str = ""
    """folder of all reasons"""

    def status(self, allow_failed: bool = False) -> int:
        """Return the exit status: 1 where anything asked for is not there."""
        return incomplete({"absent": self.absent, "failed": self.failed, "allowed": allow_failed})

    def lines(self) -> list[str]:
        """Return the summary for people."""
        what = f"{self.entity} in view {self.view} of {self.store}"
        if not self.done and not self.absent and not self.seconds:
            lines = [f"nothing to do: {self.already} {what} are there already"]
        else:
            rate = f" ({self.done / self.seconds:.1f} {self.entity}/s)" if self.seconds else ""
            lines = [f"{self.done} {what} done in {self.seconds:.0f} s{rate}, {self.already} there already"]
        if self.repeated:
            lines.append(f"{self.repeated} clips show fewer frames than the encoder sees: some were repeated")
        if self.forgotten:
            lines.append(
                f"{self.forgotten} {self.entity} were forgotten and left out; recall them with "
                "python -m store forget --undo"
            )
        if self.truncated:
            lines.append(f"{self.truncated} texts are longer than the encoder sees: their ends were left out")
        lines += [f"error: {error}" for error in self.errors]
        if self.absent:
            lines.append(f"{self.absent} of {self.asked} {self.entity} are not done: run the same command again")
        if self.failed:
            lines.append(f"{self.failed} of {self.asked} {self.entity} failed:")
            lines += [f"  {failure['key']}: {failure['reason']}" for failure in self.failures[:SHOWN]]
            if self.failed > SHOWN:
                lines.append(f"  ... and {self.failed - SHOWN} more")
            lines.append(f"  all reasons: {self.failures_in}; correct the cause, then run it again with --retry-failed")
        return lines


@dataclass
class Computed:
    """The outcome of the shards that a run computed."""

    repeated: int = 0
    """clips that show fewer frames than the encoder sees"""
    truncated: int = 0
    """texts of more tokens than the encoder sees"""
    errors: list[str] = field(default_factory=list)
    """why shards could not be written"""
    seconds: float = 0.0


def summarise(store: Store, plan: Plan, done: Computed) -> Summary:
    """Return the summary of a run over the rows of a plan."""
    view = plan.view
    now = view.status()
    asked, before = plan.before(len(now))
    failed = np.flatnonzero(asked & (now == FAILED))
    return Summary(
        entity=view.entity,
        view=view.name,
        store=str(store.path),
        asked=int(asked.sum()),
        done=int((asked & (now == OK) & (before != OK)).sum()),
        already=int((before == OK).sum()),
        failed=len(failed),
        absent=int((asked & (now == ABSENT) & (before != FORGOTTEN)).sum()),
        forgotten=int((asked & (before == FORGOTTEN)).sum()),
        repeated=done.repeated,
        truncated=done.truncated,
        seconds=round(done.seconds, 3),
        errors=done.errors,
        failures=view.failures(failed[:MOST_FAILURES]).to_dicts(),
        failures_in=str(store.path / "failures" / view.entity / view.name),
    )
