"""What became of a run, in words and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import polars as pl
from jaxtyping import UInt8

from featurize.manifest import Manifest
from featurize.task import Outcome
from store import Store, View
from store.view import FAILED, OK

SHOWN = 5
"""reasons that the words give"""


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
    repeated: int = 0
    """clips of this run that show fewer frames than the encoder sees"""
    truncated: int = 0
    """texts of this run of more tokens than the encoder sees"""
    seconds: float = 0.0
    """that this run took"""
    errors: list[str] = field(default_factory=list)
    """why shards could not be written"""
    failures: list[dict[str, str]] = field(default_factory=list)
    """key and reason of what failed"""
    failures_in: str = ""
    """folder of all reasons"""

    @property
    def status(self) -> int:
        """The exit status: 1 where anything asked for is not there."""
        return int(self.failed + self.absent > 0)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        what = f"{self.entity} in view {self.view} of {self.store}"
        if not self.done and not self.absent and not self.seconds:
            lines = [f"nothing to do: {self.already} {what} are there already"]
        else:
            rate = f" ({self.done / self.seconds:.1f} {self.entity}/s)" if self.seconds else ""
            lines = [f"{self.done} {what} done in {self.seconds:.0f} s{rate}, {self.already} there already"]
        if self.repeated:
            lines.append(f"{self.repeated} clips show fewer frames than the encoder sees: some were repeated")
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


def summarise(
    store: Store,
    view: View,
    asked: Manifest,
    before: UInt8[np.ndarray, " rows"] | None = None,
    outcomes: Sequence[Outcome] = (),
    seconds: float = 0.0,
) -> Summary:
    """What became of the rows asked for; `before` is the status of all rows before the run."""
    rows = store.catalog(view.entity).rows(asked.rows["key"])
    status = view.status()
    now = status[rows]
    then = (status if before is None else before)[rows]
    failed = asked.rows.select("key").filter(pl.Series(now == FAILED))
    failures = view.failures().filter(pl.col("key").is_in(failed["key"].implode())) if failed.height else failed
    return Summary(
        entity=view.entity,
        view=view.name,
        store=str(store.path),
        asked=len(rows),
        done=int(((now == OK) & (then != OK)).sum()),
        already=int((then == OK).sum()),
        failed=failed.height,
        absent=int(((now != OK) & (now != FAILED)).sum()),
        repeated=sum(outcome.repeated for outcome in outcomes),
        truncated=sum(outcome.truncated for outcome in outcomes),
        seconds=round(seconds, 3),
        errors=[outcome.error for outcome in outcomes if outcome.error],
        failures=failures.to_dicts(),
        failures_in=str(store.path / "failures" / view.entity / view.name),
    )
