"""How the trainings of a method differ that have another seed and nothing else.

Guarantees
- the table stands where a method has several trainings, and holds every figure that each of them has
"""

from statistics import fmean, stdev

from heads.reporting.entries import PAIRS, Place, heading
from heads.reporting.figures import Score
from heads.reporting.grid import Block, Cell, Grid, Row, number
from heads.reporting.seen_marks import MARK

NOTE = (
    "Mean and standard deviation (of n - 1) over the trainings of a method, which differ by seed alone. Brackets and p "
    "of the other tables tell how videos differ, not how trainings do."
)


def trainings(scores: list[Score]) -> Grid:
    """A row a figure, a column a method."""
    found = {(s.method, (s.setting, s.metric)): s.seeds for s in scores if len(s.seeds) > 1}
    methods = list(dict.fromkeys(method for method, _ in found))
    seen = {score.method for score in scores if score.seen_clips}
    rows: list[Row] = []
    for place in dict.fromkeys(place for _, place in found):
        rows.append((_name(place), [_cell(found.get((method, place))) for method in methods]))
    columns = [("", f"{method} {MARK}" if method in seen else method) for method in methods]
    return Grid("Trainings: how much seeds differ", "figure", columns, [Block("", rows)] if rows else [], [NOTE])


def _name(place: Place) -> str:
    pair = place[0].pair
    return " ".join(heading(place)) + ("" if pair == "average" else f", {PAIRS[pair]}")


def _cell(seeds: tuple[float, ...] | None) -> Cell | None:
    if seeds is None:
        return None
    return Cell(f"{number(fmean(seeds), '.3f')} ± {number(stdev(seeds), '.3f')}")
