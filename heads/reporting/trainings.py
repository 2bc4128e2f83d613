"""How the trainings of a method differ that have another seed and nothing else.

Guarantees
- the table stands where a method has several trainings, and holds every figure that each of them has
"""

from statistics import fmean, stdev

from heads.reporting.figures import Score
from heads.reporting.grid import Block, Cell, Grid, Row, number
from heads.reporting.places import Place, heading

NOTE = (
    "Mean and standard deviation (of n - 1) over the trainings of a method, which differ by seed alone. Brackets and p "
    "of the other tables tell how videos differ, not how trainings do."
)


def trainings(scores: list[Score]) -> Grid:
    """A row a method, a column a figure."""
    found = {(s.method, (s.setting, s.metric)): s.seeds for s in scores if len(s.seeds) > 1}
    places: list[Place] = list(dict.fromkeys(place for _, place in found))
    rows: list[Row] = []
    for method in dict.fromkeys(method for method, _ in found):
        rows.append((method, [_cell(found.get((method, place))) for place in places]))
    columns = [heading(place) for place in places]
    return Grid("Trainings: how much seeds differ", "method", columns, [Block("", rows)] if rows else [], [NOTE])


def _cell(seeds: tuple[float, ...] | None) -> Cell | None:
    if seeds is None:
        return None
    return Cell(f"{number(fmean(seeds), '.3f')} ± {number(stdev(seeds), '.3f')}")
