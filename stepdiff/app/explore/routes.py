"""Clips of a view on a map, in a grid and in a table, at /explore."""

import json
import shlex
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import polars as pl
from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.responses import JSONResponse, Response
from jaxtyping import Int64

from retrieval.projection import PROJECTIONS, missing
from stepdiff.app.explore.clips import (
    Mask,
    colours,
    columns_of,
    inside,
    passing,
    read_lasso,
    values_of,
)
from stepdiff.app.explore.maps import Maps, Shown
from stepdiff.app.explore.nearest import MOST, Hits, Searcher
from stepdiff.app.pages import kept, page, plain
from stepdiff.app.site import MOST_ROW, RefusedError, Site, UnknownError
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.tables import short
from stepdiff_core.streams import generator
from store import View

MOST_ROWS = 200  # of one page of the grid and the table
MOST_OF_GROUP = 50  # clips of a group, whose mean is compared with that of another
LONGEST = 300  # characters of a text in a table
_UNFINISHED: dict[int | str, dict[str, Any]] = {
    202: {"description": "the map is still being computed: ask again"}
}


@dataclass(frozen=True)
class ClipChoice:
    """The part of the address that decides which clips are chosen."""

    view: Annotated[str, Query(description="view of clips whose map is shown")]
    projection: Annotated[str, Query(description="pca or umap")] = "pca"
    where: Annotated[
        str, Query(description="condition on the catalog's columns, as after SQL's WHERE")
    ] = ""
    words: Annotated[
        str, Query(description="words that must be in a text column", max_length=1000)
    ] = ""
    lasso: Annotated[
        str, Query(description="corners x,y,x,y,... in coordinates of the map", max_length=10000)
    ] = ""
    near: Annotated[
        tuple[str, ...],
        Query(description="ids of clips whose neighbours are wanted", max_length=50),
    ] = ()
    lassoed: Annotated[
        bool, Query(description="the neighbours of the clips in the lasso are wanted")
    ] = False
    text: Annotated[
        str, Query(description="text whose nearest clips are wanted", max_length=2000)
    ] = ""
    by: Annotated[
        str, Query(description="view in which neighbours are searched; by default `view`")
    ] = ""
    k: Annotated[int, Query(ge=1, le=MOST, description="number of neighbours")] = 50


Choices = Annotated[ClipChoice, Depends()]


@dataclass(frozen=True)
class ChosenClips:
    """The clips that a choice selects."""

    shown: Shown
    passing: Mask
    listed: Mask  # in the lasso or among the hits; without these, all that pass
    narrowed: bool
    hits: Hits | None
    why: str | None

    @property
    def rows(self) -> Int64[np.ndarray, " listed"]:
        """The rows of the listed clips; hits begin with the nearest."""
        return self.shown.map.rows[self.listed] if self.hits is None else self.hits.rows


class Explorer:
    """The maps of a site and its search for neighbours."""

    def __init__(self, site: Site) -> None:
        self.site, self.maps, self.searcher = site, Maps(site), Searcher(site)

    def choose(self, choice: ClipChoice) -> ChosenClips:
        shown = self.maps.get(choice.view, choice.projection)
        return shown.remembered(choice, lambda: self._chosen(choice, shown))

    def _chosen(self, choice: ClipChoice, shown: Shown) -> ChosenClips:
        passed, why = passing(shown, choice.where, choice.words)
        selected, hits = np.zeros(len(passed), bool), None
        if choice.lasso:
            selected = inside(shown.map.xy, read_lasso(choice.lasso)) & passed
            if why is None and not selected.any():
                why = (
                    f"the lasso holds none of the {int(passed.sum()):,} clips that pass the filter"
                )
        if choice.near or choice.text or (choice.lassoed and selected.any()):
            hits = self._nearest(
                choice, shown.map.rows[selected], None if passed.all() else shown.map.rows[passed]
            )
            places = shown.places(hits.rows)
            selected = np.zeros(len(passed), bool)
            selected[places[places >= 0]] = True
        narrowed = bool(choice.lasso) or hits is not None
        return ChosenClips(shown, passed, selected if narrowed else passed, narrowed, hits, why)

    def _nearest(
        self,
        choice: ClipChoice,
        rows: Int64[np.ndarray, " rows"],
        among: Int64[np.ndarray, " some"] | None,
    ) -> Hits:
        """Return the clips nearest to the text, the clips or else the rows of a choice. among: None
        for all clips."""
        by = self.maps.view(choice.by or choice.view)
        if not choice.text:
            near = list(choice.near)
            search = self.searcher
            return (
                search.of_clips(by, near, choice.k, among)
                if near
                else search.of_rows(by, rows, choice.k, among)
            )
        try:
            return self.searcher.of_text(by, choice.text, choice.k, among)
        except StepDiffError as error:
            raise RefusedError(str(error), 400, field="text") from None

    def records(self, shown: Shown, rows: Int64[np.ndarray, " rows"]) -> list[dict[str, Any]]:
        """Return the columns of rows in their order, their places in the map, and their files and
        times as titles."""
        places = shown.places(rows)
        frame = (
            self.site.store.catalog("clips")
            .select(rows, shown.like.drop("row"))
            .select(shown.like.columns)
        )
        by_row = {record["row"]: record for record in frame.to_dicts()}
        clips = self.site.clips_by_id(record["key"] for record in by_row.values())
        records = []
        for row, place in zip(rows.tolist(), places.tolist(), strict=True):
            values = {name: _plain(value) for name, value in by_row[row].items()}
            if isinstance(values.get("start"), float) and isinstance(values.get("end"), float):
                values.setdefault("duration", round(values["end"] - values["start"], 3))
            records.append(
                {"place": place, "file_times": clips[by_row[row]["key"]].title, **values}
            )
        return records


@asynccontextmanager
async def _closing(app: FastAPI) -> AsyncIterator[None]:
    yield
    app.state.kept[Explorer].maps.close()


router = APIRouter(prefix="/explore", tags=["explore"], lifespan=_closing)
OfExplorer = Annotated[Explorer, kept(Explorer)]


@router.get("")
def explore(
    request: Request,
    explorer: OfExplorer,
    view: Annotated[str, Query(description="view that is shown first")] = "",
) -> Response:
    """The page: a map of clips, a grid and a table. Its whole state is in the address."""
    maps, searcher, store = explorer.maps, explorer.searcher, explorer.site.store
    if view:
        maps.view(view)  # refuses an unknown one, and lists those that exist
    words = searcher.words()
    record = {
        "title": "Explore",
        "store": store.location,
        "views": [
            _view(view, searcher.reads_texts(view)) for view in map(maps.view, store.views("clips"))
        ],
        "command": (
            "python -m featurize --manifest YOUR_MANIFEST.csv --store "
            f"{shlex.quote(store.location)}"
        ),
        "words": words,
        "knows": searcher.runs.evidence(words).head.familiarity.knows if words else "",
        "projections": [
            {"name": name, "title": title, "missing": missing(name)}
            for name, title in PROJECTIONS.items()
        ],
        "pictures": explorer.site.videos is not None,
    }
    return page(request, "explore.html", record)


@router.get("/points", responses=_UNFINISHED)
def points(
    explorer: OfExplorer,
    view: str,
    projection: str = "pca",
    colour: Annotated[str | None, Query(description="column")] = None,
) -> Response:
    """All points of a map in one binary response.

    Four bytes with the length of a JSON object (little endian), the object, then float32 x, float32
    y, int32 colour code and int32 row of the catalog, each as many as the object's `count`. Without
    `colour` a column is chosen.
    """
    shown = explorer.maps.get(view, projection, fresh=True)
    legend, codes = shown.remembered(("colours", colour), lambda: colours(shown, colour))
    about = {
        "version": shown.version,
        "count": len(shown.map.rows),
        "total": shown.map.total,
        "shares": shown.map.shares,
        "columns": [{"name": name, "kind": kind} for name, kind in columns_of(shown.like).items()],
        "legend": legend,
    }
    return _binary(
        about, shown.map.xy.T.astype("<f4"), codes.astype("<i4"), shown.map.rows.astype("<i4")
    )


@router.get("/chosen", responses=_UNFINISHED)
def chosen(explorer: OfExplorer, choice: Choices) -> Response:
    """Which points of the map pass the filter, and which are selected by the lasso or as
    neighbours.

    Four bytes with the length of a JSON object, the object, then two bit masks (lowest bit first),
    padded to bytes. `selected` is null, and the second mask the first, if there is neither a lasso
    nor a search.
    """
    chosen = explorer.choose(choice)
    hits = chosen.hits
    about = {
        "version": chosen.shown.version,
        "passing": int(chosen.passing.sum()),
        "selected": int(chosen.listed.sum()) if chosen.narrowed else None,
        "why": chosen.why,
        "hits": None if hits is None else {"title": hits.title, "count": len(hits.rows)},
    }
    return _binary(
        about, *(np.packbits(mask, bitorder="little") for mask in (chosen.passing, chosen.listed))
    )


@router.get("/clips", responses=_UNFINISHED)
def clips(
    explorer: OfExplorer,
    choice: Choices,
    sort: Annotated[str, Query(description="column; with a minus first, falling")] = "",
    offset: Annotated[int, Query(ge=0, le=MOST_ROW)] = 0,
    limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 60,
) -> Response:
    """A page of the chosen clips with their columns: of the selection, or of all that pass the
    filter."""
    chosen = explorer.choose(choice)
    part, total = _listed(chosen, sort, offset, limit)
    records = explorer.records(chosen.shown, part["row"].to_numpy())
    if chosen.hits is not None:
        values = part["similarity"].round(4).to_list()
        records = [
            {"similarity": value, **record} for value, record in zip(values, records, strict=True)
        ]
    return JSONResponse(plain({"total": total, "offset": offset, "clips": records}))


@router.get("/group", responses=_UNFINISHED)
def group(explorer: OfExplorer, choice: Choices) -> list[str]:
    """The ids of the chosen clips; of more than MOST_OF_GROUP, some drawn at random."""
    rows = explorer.choose(choice).rows
    if len(rows) > MOST_OF_GROUP:
        rows = generator(0, "averaged clips").choice(rows, MOST_OF_GROUP, replace=False)
    return explorer.site.store.catalog("clips").keys(np.sort(rows))


@router.get("/clip", responses=_UNFINISHED)
def clip(
    explorer: OfExplorer,
    view: str,
    projection: str = "pca",
    row: Annotated[int | None, Query(ge=0, le=MOST_ROW)] = None,
    key: str | None = None,
) -> Response:
    """One clip with its columns and its place in the map (-1: not in the map), by row or by id."""
    shown, catalog = explorer.maps.get(view, projection), explorer.site.store.catalog("clips")
    if row is None:
        row = int(catalog.rows([key or ""])[0])
    if not 0 <= row < len(catalog):
        raise UnknownError(
            f"the store has no clip {key!r}"[:300] if key else "the store has no such row"
        )
    return JSONResponse(plain(explorer.records(shown, np.array([row]))[0]))


def _listed(chosen: ChosenClips, sort: str, offset: int, limit: int) -> tuple[pl.DataFrame, int]:
    """Return a page of the list of the grid and the table: row, similarity (null: no hit), and the
    list's length.

    Only the page is sorted completely: a million clips take a tenth of the time of a whole sort.
    """
    shown, hits = chosen.shown, chosen.hits
    rows = chosen.rows
    similarities = None if hits is None else hits.similarities.astype(np.float64)
    frame = pl.DataFrame({"row": rows, "similarity": similarities, "order": np.arange(len(rows))})
    name, falling = sort.removeprefix("-"), sort.startswith("-")
    if name == "similarity":
        frame = frame.with_columns(value="similarity")
    elif name:
        places = pl.Series(shown.places(rows)).replace(-1, None)
        frame = frame.with_columns(values_of(shown, name).gather(places).alias("value"))
    if name:
        ordered = frame.lazy().sort("value", "order", descending=[falling, False], nulls_last=True)
        return ordered.slice(offset, limit).collect(), len(rows)
    return frame.slice(offset, limit), len(rows)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return short(value, LONGEST) if len(value) > LONGEST else value
    return (
        value if isinstance(value, int | float | bool) or value is None else short(value, LONGEST)
    )


def _view(view: View, texts: bool) -> dict[str, Any]:
    """Return a view that can be a map. texts: whether it can be searched by any text."""
    arrays = ", ".join(f"{name} {list(form.shape)}" for name, form in view.features.items())
    embedded = any(len(form.shape) == 1 for form in view.features.values())
    about = {"name": view.name, "encoder": view.provenance.encoder, "arrays": arrays}
    return about | {"embedded": embedded, "texts": texts}


def _binary(about: dict[str, Any], *arrays: np.ndarray) -> Response:
    """Return a JSON object, padded to a multiple of four bytes after its length, and arrays."""
    head = json.dumps(plain(about)).encode()
    head += b" " * (-len(head) % 4)
    body = b"".join([struct.pack("<I", len(head)), head, *(array.tobytes() for array in arrays)])
    return Response(
        body, media_type="application/octet-stream", headers={"Cache-Control": "no-store"}
    )
