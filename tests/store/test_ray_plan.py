"""Read tasks of a view, planned and run without a Ray cluster."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import ray.data
from hypothesis import given
from hypothesis import strategies as st

from stepdiff_core.errors import StepDiffError
from store import Feature, Store, View
from store.format.layout import ViewPaths
from store.io.reader import OK
from store.ray import ViewDatasource
from store.verbs.options import DropOptions
from store.verbs.removal import drop
from tests.stores import made_by, write_view

FORMS = {
    "tokens": Feature((3, 70), "int8"),
    "embedding": Feature((7,), "float32"),
    "half": Feature((2, 4), "float16"),
}
COUNT = 61
KEYS = [f"c{row}" for row in range(COUNT)]
ABOUT = pl.DataFrame(
    {
        "key": KEYS,
        "step": [row % 5 for row in range(COUNT)],
        "name": [f"n{r % 3}" for r in range(COUNT)],
    }
)
MADE = made_by(tokens="int8")


def write(store: Store, name: str, shard: int, seed: int) -> View:
    """Write a view in which some rows have failed, some are absent, and maybe whole shards are."""
    rng = np.random.default_rng(seed)
    fate = rng.choice(["ok", "ok", "ok", "failed", "absent"], COUNT)
    fate[16:32] = "absent" if seed else fate[16:32]
    store.catalog("clips").append(ABOUT)
    good, bad = (ABOUT.filter(pl.Series(fate == name)) for name in ("ok", "failed"))
    values = {
        n: rng.normal(size=(good.height, *f.shape)).astype(np.float32) for n, f in FORMS.items()
    }
    return write_view(
        store,
        good,
        FORMS,
        values,
        dict.fromkeys(bad["key"], "no video"),
        name=name,
        by=MADE,
        shard=shard,
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    opened = Store.open(tmp_path_factory.mktemp("ray") / "store", create=True)
    write(opened, "small", 4, 1)
    write(opened, "large", 64, 0)
    return opened


@pytest.fixture(autouse=True)
def context() -> Iterator[ray.data.DataContext]:
    """Ray's settings, of which the smallest block is a byte within a test."""
    data_context = ray.data.DataContext.get_current()
    before, data_context.target_min_block_size = data_context.target_min_block_size, 1
    yield data_context
    data_context.target_min_block_size = before


def source(
    store: Store, view: str = "small", features: Any = None, **options: Any
) -> ViewDatasource:
    check = options.pop("check", "first")
    return ViewDatasource(store.view("clips", view, check), features, **options)


def blocks(reading: ViewDatasource, parallelism: int) -> list[list[pa.Table]]:
    """Return the blocks of each task."""
    return [list(task()) for task in reading.get_read_tasks(parallelism)]


FILTERS = [
    None,
    pl.col("step") == 1,
    (pl.col("step") < 3) & pl.col("name").is_in(["n0", "n2"]),
    pl.col("row") > 20,
]
FILTERS += [
    pl.col("key").str.ends_with("7"),
    pl.any_horizontal(pl.col("^na.*$") == "n1"),
    pl.col("step") > 9,
]


@given(
    st.sampled_from(["small", "large"]),
    st.lists(st.sampled_from(sorted(FORMS)), min_size=1, unique=True),
    st.sampled_from(range(len(FILTERS))),
    st.none() | st.lists(st.integers(0, COUNT - 1)),
    st.sampled_from([None, [], ["name"], ["name", "step"]]),
    st.sampled_from([None, "float16", "float32"]),
    st.integers(1, 12),
)
def test_rows_order_and_values_equal_those_of_view_read(
    store: Store,
    name: str,
    features: list[str],
    chosen: int,
    rows: list[int] | None,
    columns: list[str] | None,
    dtype: str | None,
    parallelism: int,
) -> None:
    """Each finished row is read once, for every combination of features, columns, rows, filter and
    tasks."""
    view, expression = store.view("clips", name), FILTERS[chosen]
    frame = view.catalog.frame().filter(pl.Series(view.status() == OK))
    frame = frame if rows is None else frame.filter(pl.col("row").is_in(rows))
    frame = frame if expression is None else frame.filter(expression)
    reading = source(
        store, name, features, filter=expression, rows=rows, columns=columns, dtype=dtype
    )
    tables = [table for task in blocks(reading, parallelism) for table in task]
    expected = frame.select("key", *(["step", "name"] if columns is None else columns)).rows()
    labels = [
        name
        for name in (tables[0].column_names if tables else [])
        if name.removesuffix("_scale") not in FORMS
    ]
    assert [
        row for table in tables for row in zip(*(table[n].to_pylist() for n in labels), strict=True)
    ] == expected
    at = frame["row"].to_numpy()
    for feature in features if tables else ():
        stored = FORMS[feature].dtype
        if stored == "int8" and dtype is None:
            expected_arrays = dict(
                zip((feature, f"{feature}_scale"), view.read_quantised(feature, at), strict=True)
            )
        elif stored == "int8":
            expected_arrays = {feature: view.read(feature, at, dtype=dtype)}
        else:
            expected_arrays = {feature: view.read(feature, at).astype(dtype or stored)}
        for column, values in expected_arrays.items():
            joined = np.concatenate([table[column].combine_chunks().to_numpy() for table in tables])
            assert joined.dtype == values.dtype and np.array_equal(joined, values)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"view": "none"}, "no view 'none' of clips in .*: there is large, small"),
        ({"features": ["colour"]}, "no feature 'colour' in view small of clips: it has tokens"),
        ({"columns": ["colour"]}, "no column 'colour' in the catalog of clips: it has step, name"),
        ({"filter": pl.col("colour") == 1}, "no column 'colour' in the catalog of clips"),
        (
            {"filter": pl.col("name") == 1},
            "the filter does not fit the catalog of clips: cannot compare string",
        ),
        ({"filter": pl.col("step")}, "the filter does not fit the catalog of clips: .*Boolean"),
        (
            {"filter": pl.col("step") > pl.col("step").mean()},
            "the filter compares rows with one another",
        ),
        (
            {"filter": pl.col("name").is_first_distinct()},
            "the filter compares rows with one another",
        ),
        ({"rows": [1, COUNT]}, f"no row {COUNT} in the catalog of clips: it has rows 0 to 60"),
        ({"rows": [-1]}, "no row -1 in"),
        ({"dtype": "int4"}, "dtype 'int4' is refused"),
    ],
)
def test_an_unknown_name_is_refused_before_tasks_run(
    store: Store, wrong: dict[str, Any], why: str
) -> None:
    with pytest.raises(StepDiffError, match=why) as error:
        source(store, **wrong)
    assert len(str(error.value).splitlines()) == 1


def test_a_dropped_view_and_a_damaged_row_are_named_in_one_line(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", create=True)
    view = write(store, "net", 64, 0)
    paths = ViewPaths(store.path, "clips", "net")
    key = KEYS[int(np.flatnonzero(view.status() == OK)[2])]
    shard = Path(str(paths.shard("embedding", 0, 2)))
    data = shard.read_bytes()
    at = data.index(view.read("embedding", keys=[key]).tobytes())
    shard.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    reading = source(store, "net", ["embedding"])
    with pytest.raises(
        StepDiffError, match=rf"^{key}: stored embedding of view net of clips \(shard 0\)"
    ):
        blocks(reading, 4)
    assert sum(
        len(table)
        for task in blocks(source(store, "net", ["embedding"], check="never"), 4)
        for table in task
    )
    drop(DropOptions(str(store.path), "net", yes=True))
    with pytest.raises(
        StepDiffError,
        match="^node .* does not see the view: no view 'net' of clips in .*: there is none",
    ):
        blocks(reading, 4)
    write_view(store, ["c1"], {"embedding": Feature((3,), "float32")})
    with pytest.raises(
        StepDiffError,
        match="view net of clips in .* was dropped and made differently: call read_view",
    ):
        blocks(reading, 4)


def test_a_view_that_is_dropped_during_a_task_is_named(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", create=True)
    write(store, "net", 4, 1)
    (task,) = source(store, "net", ["embedding"]).get_read_tasks(1)
    running = iter(task())
    next(running)
    drop(DropOptions(str(store.path), "net", yes=True))
    with pytest.raises(StepDiffError, match="view net of clips in .* was dropped"):
        list(running)


def test_a_snapshot_is_read_as_it_was(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", create=True)
    view = write(store, "net", 4, 1)
    rows = np.flatnonzero(view.status() == OK)
    values, keys = view.read("embedding", rows), [KEYS[row] for row in rows]
    store.tag("paper")
    reading = source(Store.open(store.path, at="paper"), "net", ["embedding"], columns=["step"])
    with store.lock():
        view.withdraw(rows[:6])
    write(store, "net", 4, 0)  # now other rows are absent
    assert 0 < (view.status(rows) == OK).sum() < len(rows) < (view.status() == OK).sum()
    Path(str(view.paths.status(0))).unlink()  # as for a shard that is to be computed again
    for again in (
        reading,
        source(Store.open(f"{store.path}@paper"), "net", ["embedding"], columns=["step"]),
    ):
        tables = [table for task in blocks(again, 5) for table in task]
        assert [key for table in tables for key in table["key"].to_pylist()] == keys
        joined = np.concatenate(
            [table["embedding"].combine_chunks().to_numpy() for table in tables]
        )
        np.testing.assert_array_equal(joined, values)
