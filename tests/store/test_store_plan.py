"""Plans: exact sizes, declared features of known encoders, measured rates."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from featurize.encoders import load
from stepdiff_core.errors import StepDiffError
from store import Feature, Store, View
from store.provenance import with_dtype
from store.verbs.compact import compact
from store.verbs.options import CompactOptions, StorePlanOptions
from store.verbs.plan import ENCODERS, measured_rates, plan, sizes
from tests.store.conftest import Run
from tests.stores import made_by, write_view

Make = Callable[..., Any]
TOKENS = {"tokens": Feature((3, 130), "float16"), "embedding": Feature((7,), "float32")}


def files(view: View) -> list[Path]:
    return [
        path
        for folder in (view.paths.group, view.paths.beside[1])
        for path in folder.rglob("*")
        if path.is_file()
    ]


@pytest.mark.parametrize("rows", [8, 11])
@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_planned_sizes_equal_those_of_a_store_to_the_byte(
    make_view: Make, fill: Make, dtype: str, rows: int
) -> None:
    view = make_view(with_dtype(TOKENS, dtype), rows=rows)
    fill(view)
    planned = sizes(rows, view.features, dtype, rows_per_shard=4)
    arrays = [path for path in files(view) if "/c/" in str(path)]
    assert planned.bytes == sum(path.stat().st_size for path in arrays)
    assert planned.files == len(files(view))
    assert planned.shards == -(-rows // 4)
    compact(CompactOptions(str(view.paths.store)))
    assert planned.compacted == len(files(view))


def test_a_month_long_job_is_planned(run: Run) -> None:
    command = ["plan", "--clips", "136e6", "--encoder", "internvideo-mm-l14", "--dtype", "int8"]
    record = run(*command, "--json", "--clips-per-second", "25", "--workers", "8").json
    assert record["rows"] == 136_000_000 and record["features"]["tokens"] == [2048, 1024]
    by_dtype = {size["dtype"]: size for size in record["sizes"]}
    assert set(by_dtype) == {"float32", "float16", "int8"}
    values, scales, embedding = 2048 * 1024, 2048 * 16 * 2, 768 * 4
    assert by_dtype["int8"]["rows_per_shard"] == 128
    assert by_dtype["int8"]["shards"] == 1_062_500
    an_index = 128 * 16 + 4
    a_shard = 3 * an_index + (128 * 3 * 4 + 4) + (128 + 4)
    assert (
        by_dtype["int8"]["bytes"]
        == 136_000_000 * (values + scales + embedding) + 1_062_500 * a_shard
    )
    assert by_dtype["float32"]["rows_per_shard"] == 32
    (hours,) = record["hours"]
    assert (
        hours["worker_hours"] == pytest.approx(136e6 / 25 / 3600)
        and hours["hours"] == hours["worker_hours"] / 8
    )
    table = run(*command).out
    assert "136,000,000 clips of internvideo-mm-l14: tokens 2048x1024, embedding 768" in table
    assert "int8 (chosen)" in table and "hours: unknown" in table and "--measured-in" in table


def test_a_plan_can_copy_the_features_of_an_existing_view(make_view: Make, fill: Make) -> None:
    view = make_view(TOKENS)
    fill(view)
    planned = plan(StorePlanOptions(clips=100.0, like=f"{view.paths.store}/net", dtype="int8"))
    assert (planned["encoder"], planned["entity"], planned["hours"]) == ("net", "clips", [])
    assert planned["sizes"][-1] == asdict(sizes(100, with_dtype(TOKENS, "int8"), "int8"))


def test_the_rate_comes_from_the_info_of_shards(make_view: Make, values: Make) -> None:
    view = make_view()
    for shard, device, seconds in ((0, "cpu", 2.0), (1, "cuda", 0.5), (2, "cpu", 1.5)):
        rows = np.arange(shard * 4, min(shard * 4 + 4, 11))
        info = {"device": device, "rows": len(rows), "seconds": seconds}
        view.write_shard(shard, rows, values(view, rows), {}, info)
    planned = plan(StorePlanOptions(clips=3600 * 8.0, like=f"{view.paths.store}/net", workers=4))
    assert [
        (hours["device"], hours["clips_per_second"], hours["worker_hours"])
        for hours in planned["hours"]
    ] == [
        ("cpu", 7 / 3.5, 4.0),
        ("cuda", 8.0, 1.0),
    ]
    assert planned["hours"][0]["hours"] == 1.0


def test_features_are_compared_with_the_video_files(tmp_path: Path, run: Run) -> None:
    files = {"video": ["a.mp4", "a.mp4", "b.mp4", "c.mp4"], "video_bytes": [3000, 3000, 600, None]}
    clips = pl.DataFrame({"key": list("abcd"), **files})
    like = (
        f"{write_view(tmp_path, clips, {'tokens': Feature((2, 600), 'float16')}).paths.store}/net"
    )
    assert plan(StorePlanOptions(clips=10.0, like=like))["video_bytes"] == (3000 + 600) / 3
    out = run("plan", "--clips", "1e6", "--like", like).out
    assert "cache or encode again? A row of this plan: 2.4 KiB" in out
    assert "its share of the video files: 1.2 KiB (features: 2.0 times as much)" in out
    assert "encoding it" not in out, "no rate was measured"


@pytest.mark.parametrize(
    ("mb_per_second", "reads"),
    [(100.0, 2), (0.06, 4), (0.05, 5), (0.005, None)],
)
def test_caching_wins_from_the_read_that_pays_for_it(
    run: Run, mb_per_second: float, reads: int | None
) -> None:
    command = ["plan", "--clips", "1e6", "--encoder", "mpnet-base", "--clips-per-second", "10"]
    record = run(*command, "--read-mb-per-second", str(mb_per_second), "--json").json
    (caching,) = record["caching"]
    assert caching["reads"] == reads
    encode, read = caching["encode_seconds"], caching["read_seconds"]
    assert encode == 0.1
    if reads is None:
        assert read > encode
    else:
        assert encode + (reads + 1) * read < reads * encode
        assert encode + reads * read >= (reads - 1) * encode


def test_a_plan_recommends_a_setting_and_measures_reading(make_view: Make, values: Make) -> None:
    view = make_view({"tokens": Feature((8, 64), "float16")})
    view.write_shard(
        0,
        np.arange(4),
        values(view, np.arange(4)),
        {},
        {"device": "cpu", "rows": 4, "seconds": 400.0},
    )
    planned = plan(StorePlanOptions(clips=100.0, like=f"{view.paths.store}/net"))
    assert (planned["setting"]["pool"], planned["setting"]["dtype"]) == (1, "int8")
    assert (
        planned["setting"]["bytes_per_row"]
        == sizes(1, with_dtype(view.features, "int8"), "int8", 1).bytes_per_row
    )
    assert planned["statistics_bytes"] is None
    whole = plan(StorePlanOptions(clips=136e6, encoder="efficientnet-lite0"))
    setting, statistics = (
        whole["setting"],
        {"statistics": Feature(ENCODERS["efficientnet-lite0"].statistics, "float32")},
    )
    assert whole["statistics_bytes"] == sizes(136_000_000, statistics, "float32").bytes
    assert 4096 * 136e6 < whole["statistics_bytes"] < 4128 * 136e6
    assert (setting["pool"], setting["dtype"]) == (7, "int8") and "DiffMCQ" in setting["cost"]
    assert 15_700 < setting["bytes_per_row"] < 16_100
    (caching,) = planned["caching"]
    assert planned["read_mb_per_second"] and caching["read_seconds"] > 0 and caching["reads"] == 2


def declared(name: str) -> dict[str, Feature] | None:
    """Return the features that the encoder declares, or None if its weights are not available."""
    if name.startswith("internvideo"):
        from featurize.encoders.internvideo.mm import InternVideo
        from featurize.encoders.internvideo.model import SIZES

        # its features follow from its size, without 2 GB of weights
        encoder = object.__new__(InternVideo)
        encoder._size = SIZES[name]
        return encoder.features("clips")
    if name.startswith("clip"):
        return None
    if name == "efficientnet-lite0":
        from featurize.encoders.efficientnet_lite0 import EfficientNetLite0

        encoder = object.__new__(EfficientNetLite0)
        assert (4, sum(encoder.early_maps().values())) == ENCODERS[name].statistics
        return encoder.features("clips")
    try:
        return load(name, None, "cpu").features("texts")
    except StepDiffError:
        return None


@pytest.mark.full
@pytest.mark.parametrize("name", list(ENCODERS))
def test_known_features_equal_those_that_featurize_declares(name: str) -> None:
    features = declared(name)
    if features is None:
        pytest.skip(f"weights of {name} are not at hand: stepdiff weights fetch {name}")
    assert {feature: form.shape for feature, form in features.items()} == ENCODERS[name].features
    assert {form.dtype for feature, form in features.items() if feature != "tokens"} == {"float32"}


def test_a_rate_is_of_the_same_weights(tmp_path: Path) -> None:
    """Models of one encoder may differ in size: `--like` counts views of its own weights alone."""
    store = Store.open(tmp_path / "store", create=True)
    for name, seconds in (("small", 1.0), ("large", 50.0)):
        info = {"device": "cpu", "rows": 2, "seconds": seconds}
        features, by = (
            {"embedding": Feature((2,), "float32")},
            made_by("hf", name[0], embedding="float32"),
        )
        write_view(store, ["a", "b"], features, name=name, by=by, info=info)
    (hours,) = plan(StorePlanOptions(100.0, like=f"{store.path}/large"))["hours"]
    assert hours["clips_per_second"] == 2 / 50
    assert measured_rates(store, "clips", "hf") == {"cpu": (4, 51.0)}


def test_a_plan_shows_the_bytes_of_pooled_tokens(run: Run) -> None:
    command = [
        "plan",
        "--clips",
        "136e6",
        "--encoder",
        "internvideo-mm-l14",
        "--dtype",
        "int8",
        "--json",
    ]
    plans = [run(*command, "--pool", side).json for side in (1, 2)]
    one, two = (
        next(size["bytes"] for size in plan["sizes"] if size["dtype"] == "int8") for plan in plans
    )
    assert plans[1]["features"]["tokens"] == [512, 1024] and 3.9 < one / two < 4
