"""Files of strangers: no store, head, run, export or score record runs code, sends a request or is
silently wrong.

Every command is in `COMMANDS` with what it is given, or in `OF_THE_USER`, because all that it reads
is the user's own. A new command is in neither, and the tests fail until it is.
"""

import contextlib
import hashlib
import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from heads import train, words
from heads.data.training_clips import TrainedOn
from heads.evidence.familiarity import Familiarity, Spread
from heads.evidence.fitting import Counting
from heads.evidence.head import POOLING, WordHead
from heads.training import run_record
from heads.training.checkpoint import MADE_BY, Run, write_sums
from heads.words import WordOptions
from stepdiff.__main__ import GROUPS, main
from stepdiff.annotate.grounding import RowSet, SpaceJob
from stepdiff.app.compare.files import Library
from stepdiff.app.explore.nearest import Searcher
from stepdiff.app.options import AppOptions
from stepdiff.app.site import Site
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.local import temporary
from stepdiff_core.io.sealed import BLANK, seal
from stepdiff_core.weights import resolve_of_data
from store import Feature, Provenance, Store, text_key
from store.lineage.answers import write_record
from tests.featurize.conftest import write_video
from tests.heads.conftest import CLIPS as WORLD
from tests.heads.conftest import recipe, write_world

ROOT = Path(__file__).parents[1]
PLANTED = "planted:Planted"
"""names a module of the working folder, which writes a file when it is imported"""
CLIPS = ["a", "b", "c", "d"]
BUCKET = "s3://stranger/features"

OF_THE_USER = {
    *("kitchen", "weights fetch", "weights list", "store plan"),  # read nothing
    *(
        "annotate manifest",
        "annotate transcribe",
        "learn",
        "annotate agreement",
        "annotate statistics",
        "annotate export",
        "annotate audit",
    ),
    *("people add", "people link", "people revoke", "people list", "people admin"),
    # a store too, whose texts and tokens they read
    *("train", "annotate pairqa", "annotate describe"),
}
"""commands that take no head, and nothing that names an encoder, a task or weights"""
_VIEW = "--store {}/store --view planted"
_HEAD = "--task diffmcq --test-set {}/diffmcq.jsonl --store {}/store --out {}/out.jsonl"
_PAIR = "--reference a --candidate b"
COMMANDS: dict[str, list[str]] = {
    "featurize": ["{}/a.mp4 --store {}/store --view planted --encoder none"],
    "store info": ["{}/store"],
    "store verify": ["{}/store"],
    "store export": [f"{{}}/more.parquet {_VIEW}"],
    "store import": ["{}/export.parquet --store {}/taken --view planted"],
    "store requantise": ["{}/store --view planted --to small --dtype int8"],
    "store pool": ["{}/store --view planted --to pooled --pool 2"],
    "store failures": ["{}/store --view planted"],
    "store rows": ["{}/store --view planted"],
    "store forget": ["{}/store d --reason test"],
    "store drop": ["{}/store --view both --entity texts --yes"],
    "store compact": ["{}/store"],
    "store tag": ["{}/store v1"],
    "store log": ["{}/store"],
    "store lineage": ["{}/store a --heads {}/runs", "{}/store {}/runs/words"],
    "query": [
        f"{_VIEW} --text whisk",
        f"{_VIEW} --file {{}}/a.mp4",
        f"{_VIEW} --clip a",
        "--store {}/store --view both --text whisk",
    ],
    "retrieval build": [_VIEW],
    "retrieval query": [f"{_VIEW} --text whisk"],
    "retrieval negatives": [f"{_VIEW} --test-set {{}}/diffmcq.jsonl --out {{}}/v2.jsonl"],
    "retrieval neighbours": [f"{_VIEW} --out {{}}/neighbours.parquet"],
    "retrieval duplicates": [f"{_VIEW} --against {{}}/store --out {{}}/twice.csv"],
    "words": [f"{_VIEW} --pairqa {{}}/pairqa.jsonl --out {{}}/runs/words"],
    "embed": ["--head {}/runs/trained --store {}/store --view embedded"],
    "evaluate": [
        f"{_HEAD} --method vlemb --view planted",
        f"{_HEAD} --method word-evidence --head {{}}/runs/words",
        f"{_HEAD} --method video-lm --head {{}}/runs/trained",
    ],
    "score": [
        "--task diffmcq --test-set {}/diffmcq.jsonl --predictions {}/p.jsonl",
        "--task diffmcq --test-set {}/diffmcq.jsonl --predictions {}/p.jsonl --store {}/store",
    ],
    "table": ["{}/p.scores.json"],
    "report": [
        "--config {}/report.yaml",
        "--predictions []",
        "--test-set {}/diffcap.jsonl --sheet {}/sheet.png --store {}/store --videos {}",
    ],
    "compare": [
        "{}/a.mp4 {}/b.mp4 --model {}/runs/trained --store {}/kept",
        "{}/a.mp4 {}/b.mp4 --model {}/runs/words --store {}/kept",
        "{}/a.mp4 {}/b.mp4 {}/b.mp4 --rank --model {}/runs/trained --store {}/kept",
    ],
    "ask": [
        f"{_PAIR} --store {{}}/store --why --words {{}}/runs/words",
        f"{_PAIR} --store {{}}/store --head {{}}/runs/trained Why?",
        f"{_PAIR} --store {{}}/store --model {{}}/runs/trained Why?",
    ],
    "differences": [f"{_PAIR} --store {{}}/store --words {{}}/runs/words", f"{_PAIR} {_VIEW}"],
    "app": [
        "--store {}/store --runs {}/runs --predictions {} --models {}/runs/trained --cache {}/cache"
    ],
    "annotate align": [
        "--store {}/store --head {}/runs/trained --narration {}/said.jsonl --out {}/texts.parquet"
    ],
    "annotate captions": [
        "--kind tools --store {}/store --head {}/runs/trained",
        f"--kind tools {_VIEW} --model {{}}/runs/trained",
    ],
    "annotate ground": [
        _VIEW,
        f"{_VIEW} --head {{}}/runs/trained",
        "--store {}/store --model {}/runs/trained --videos {}",
    ],
    "annotate pairs": ["--store {}/store --out {}/pairs.jsonl"],
}
"""command -> options with files of a stranger, {} is their folder; every option that takes such a
file is among them"""
QUICK = ("query", "compare", "report")
FILES = {
    "--store",
    "--head",
    "--heads",
    "--model",
    "--models",
    "--words",
    "--runs",
    "--predictions",
    "--against",
}


def every_command() -> list[str]:
    commands = []
    for verbs in GROUPS.values():
        for name, (entry, _) in verbs.items():
            module = importlib.import_module(entry.partition(":")[0])
            commands += [f"{name} {verb}" for verb in getattr(module, "VERBS", ())] or [name]
    return commands


def test_every_command_is_listed_with_what_it_reads_of_strangers() -> None:
    assert sorted(every_command()) == sorted([*COMMANDS, *OF_THE_USER])


@pytest.mark.full
def test_every_option_that_takes_a_file_of_strangers_is_tried() -> None:
    for name, given in COMMANDS.items():
        with contextlib.redirect_stdout(printed := io.StringIO()), contextlib.suppress(SystemExit):
            main([*name.split(), "--help"])
        options = FILES.intersection(
            re.findall(r"^  (--[a-z-]+)", printed.getvalue(), re.MULTILINE)
        )
        assert options <= set(" ".join(given).split()), name


def planted_provenance() -> Provenance:
    dtypes = {"tokens": "float16", "embedding": "float32"}
    return Provenance(PLANTED, "0" * 64, "last", "2 at linspace", "none", dtypes)


def write_words(folder: Path, provenance: Provenance, channels: int = 8) -> WordHead:
    """Write a small head of words, with its lineage."""
    about = {
        "view": "planted",
        "provenance": provenance.as_dict(),
        "pooling": POOLING,
        "options": {"narration": "narration", "least": 1, "folds": 2, "least_distance": 0.5},
        "clips": {"train": 4, "val": 0},
        "ridge": {"value": 0.1, "chosen_on": "left-out folds"},
        "distance": [1.0, 2.0],
        "frequency": [0.5, 0.25],
        "declines": {"below": {"Visuals": 1.1}, "balanced_accuracy": 0.75, "rows": 4},
        "seconds": 1.5,
    }
    random, terms = np.random.default_rng(0), ("red", "red pan")
    weights, bias = random.standard_normal((3, 2, channels)), random.standard_normal((3, 2))
    weights, bias = weights.astype(np.float32).astype(float), bias.astype(np.float32).astype(float)
    sides, categories = {"": 0.5}, {"Visuals": {"red": 0.5, "red pan": 0.25}}
    features = random.standard_normal((4, channels))
    spread = Spread.of(4.0, features.sum(axis=0), features.T @ features, 0.1)
    familiarity = Familiarity.learned(spread, 4, {"whisk": 4}, np.ones(4), "left-out folds")
    learned = weights, bias, np.ones(2), familiarity
    head = WordHead(folder, about, terms, *learned, sides, {}, {}, categories, frozenset(terms))
    folder.mkdir(parents=True)
    reads, trained = {"clips": provenance.as_dict()}, TrainedOn.of([pl.DataFrame({"key": CLIPS})])
    write_record(
        folder, {"reads": reads, "store": None, "init": None, "trained_on": trained.write(folder)}
    )
    head.save()
    return head


def write_run(folder: Path, provenance: Provenance, language_model: str) -> None:
    """Write the record of a head that was trained on a store in a bucket."""
    options = {
        "schedule": {"steps": 1},
        "pairqa": "pairqa.jsonl",
        "view": "planted",
        "language_model": language_model,
    }
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(
        yaml.safe_dump({"store": BUCKET, "out": "run", "video_lm": options})
    )
    reads, place = (
        {"clips": provenance.as_dict(), "language_model": "0" * 64},
        {"path": BUCKET, "at": None},
    )
    write_record(folder, {"reads": reads, "store": place | {"commits": {}}, "init": None})
    write_sums(folder, MADE_BY)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files of a stranger, each of which names PLANTED, a bucket and unknown
    weights."""
    folder = tmp_path_factory.mktemp("theirs")
    made, random = planted_provenance(), np.random.default_rng(0)
    features = {"tokens": Feature((4, 8), "float16"), "embedding": Feature((8,), "float32")}
    store = Store.open(folder / "store", create=True)
    videos = pl.DataFrame(
        {"key": CLIPS, "video": ["a.mp4", "a.mp4", "b.mp4", "b.mp4"], "start": [0.0, 1.0] * 2}
    )
    clips = videos.with_columns(
        end=pl.col("start") + 1, split=pl.lit("train"), step=pl.lit("whisk")
    )
    clips = clips.with_columns(narration=pl.lit("a red pan"))
    values = {
        name: random.standard_normal((4, *feature.shape)) for name, feature in features.items()
    }
    values = {name: value.astype(np.float32) for name, value in values.items()}
    source = {"weights": "stranger/weights"}
    for view in ("planted", "both"):
        with store.writer("clips", view, made, features) as writer:
            writer.write(clips, values, source)
    texts = pl.DataFrame({"key": [text_key("stir")], "text": ["stir"]})
    of_text = replace(made, dtypes={"embedding": "float32"})
    with store.writer("texts", "both", of_text, {"embedding": features["embedding"]}) as writer:
        writer.write(texts, {"embedding": values["embedding"][:1]}, source)
    write_words(folder / "runs" / "words", made)
    write_run(folder / "runs" / "trained", made, "stranger/model")
    pairs = [["a", "b"], ["b", "a"], ["a", "c"], ["c", "a"]]
    row = {"difference": "a red pan", "category": "Visuals", "options": pairs, "answer": pairs[0]}
    (folder / "diffmcq.jsonl").write_text(json.dumps(row) + "\n")
    described = {"reference": "a", "candidate": "b", "category": "Visuals", "text": ["a red pan"]}
    (folder / "diffcap.jsonl").write_text(json.dumps(described) + "\n")
    (folder / "p.jsonl").write_text('{"scores": [1, 0, 0, 0]}\n')
    record = {
        "options": {"task": PLANTED, "method": PLANTED},
        "scores": {"rows": 1, "intervals": {}},
        "disclosed": {},
    }
    (folder / "p.scores.json").write_text(json.dumps(record))
    benchmarks = [{"method": "theirs", "predictions": str(folder / "p.jsonl")}]
    (folder / "report.yaml").write_text(yaml.safe_dump({"benchmarks": benchmarks}))
    asked = {"type": 1, "question": "What differs?", "answer": "a red pan", "category": "Visuals"}
    (folder / "pairqa.jsonl").write_text(
        json.dumps({"reference": "a", "candidate": "b", **asked}) + "\n"
    )
    for name in ("a", "b"):
        write_video(folder / f"{name}.mp4")
    (folder / "said.jsonl").write_text("")
    (folder / "planted.py").write_text(
        "from pathlib import Path\nfrom featurize.encoders import Encoder\n"
        "(Path(__file__).parent / 'ran').touch()\n"
        "class Planted(Encoder):\n"
        "    name, version, entities, layer = 'planted:Planted', '1', ('clips',), 'mean'\n"
        "    def __init__(self, weights, device):\n"
        "        super().__init__(weights)\n"
        "    def features(self, entity, dtype='float16'):\n"
        "        return {}\n"
    )
    export = ["store", "export", str(folder / "export.parquet")]
    assert main([*export, *_VIEW.replace("{}", str(folder)).split()]) == 0
    return folder


@pytest.fixture
def planted(theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the stranger's files, in which the user works."""
    folder = tmp_path / "theirs"
    shutil.copytree(theirs, folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("STEPDIFF_CACHE", str(tmp_path / "cache"))
    return folder


def refused_or_done(arguments: list[str]) -> int:
    """Return the status of a command; a traceback would be an error of the test."""
    try:
        return main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        pytest.param(name, one, marks=[] if name in QUICK and one == given[0] else pytest.mark.full)
        for name, given in COMMANDS.items()
        for one in given
        if name != "app"  # a server: see below
    ],
)
def test_no_command_imports_or_asks_what_data_name(
    name: str,
    given: str,
    planted: Path,
    listening: Callable[[], bool],
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = refused_or_done([*name.split(), *given.replace("{}", str(planted)).split()])
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert (status, len(errors)) in ((0, 0), (1, 0), (2, 1)), errors
    assert not (planted / "ran").exists() and "planted" not in sys.modules
    assert not listening()


def test_the_pages_import_nothing_that_data_name(planted: Path) -> None:
    site = Site(
        AppOptions(str(planted / "store"), runs=str(planted / "runs"), cache=str(planted / "cache"))
    )
    for view in ("planted", "both"):
        with pytest.raises(
            StepDiffError,
            match="give|no word of 'whisk' has evidence|your own is named by --encoder",
        ):
            Searcher(site).of_text(site.store.view("clips", view), "whisk", 2, None)
    assert Library([planted]).read()
    others = RowSet.of([np.arange(4)])
    with pytest.raises(StepDiffError, match="no encoder named 'planted:Planted'"):
        SpaceJob(str(planted / "store"), "planted", None, None, others, "", {}).load("cpu", 1)
    assert not (planted / "ran").exists() and "planted" not in sys.modules


def test_a_class_that_the_user_types_is_imported(
    planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["query", *_VIEW.replace("{}", str(planted)).split(), "--file", str(planted / "a.mp4")]
    try:
        assert main([*given, "--encoder", PLANTED]) == 2 and (planted / "ran").exists()
        assert (
            "view clips/planted differs from what planted:Planted makes of a file now"
            in capsys.readouterr().err
        )
    finally:
        sys.modules.pop("planted", None)


def read_words(folder: Path) -> None:
    """Read all that commands read of a head of words."""
    WordHead.load(folder)
    TrainedOn.of_run(folder, run_record.read(folder))


def refuses_flips(path: Path, read: Callable[[], object], bits: int) -> None:
    """Assert that a file is refused in one line if any of some bits of it is another."""
    data, random = path.read_bytes(), Random(path.name)
    for bit in [random.randrange(8 * len(data)) for _ in range(bits)]:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(StepDiffError) as error:
            read()
        assert "\n" not in str(error.value), (path, bit)
    path.write_bytes(data)


def test_a_flipped_bit_in_any_file_of_a_head_of_words_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "words"
    write_words(folder, planted_provenance())
    for path in sorted(folder.iterdir()):
        refuses_flips(path, lambda: read_words(folder), 20)
    read_words(folder)


def changed(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change words.json as somebody does who knows its checksum."""
    about = json.loads((folder / "words.json").read_text())
    change(about)
    (folder / "words.json").write_bytes(seal(json.dumps(about | {"seal": BLANK}).encode()))


def with_arrays(folder: Path, **arrays: np.ndarray) -> None:
    """Write other weights, with their digest."""
    from safetensors.numpy import load_file, save

    (path,) = folder.glob("words-*")
    path.write_bytes(data := save(load_file(path) | arrays))
    changed(
        folder,
        lambda about: about["weights"].update(
            sha256=hashlib.sha256(data).hexdigest(), size=len(data)
        ),
    )


def with_fifo(folder: Path) -> None:
    (path,) = folder.glob("words-*")
    path.unlink()
    os.mkfifo(path)


HEADS: dict[str, tuple[Callable[[Path], object], str]] = {
    "fewer terms": (
        lambda f: changed(f, lambda a: a["terms"].pop()),
        "1 terms, weights [3, 2, 8] and bias [3, 2]",
    ),
    "a term twice": (
        lambda f: changed(f, lambda a: a.update(terms=["red", "red"])),
        "a term that is there twice",
    ),
    "declines text": (
        lambda f: changed(f, lambda a: a.update(declines="no")),
        "declines should be",
    ),
    "a threshold of text": (
        lambda f: changed(f, lambda a: a["declines"]["below"].update(Visuals="1")),
        "declines: below: Visuals should be",
    ),
    "a threshold that is NaN": (
        lambda f: changed(f, lambda a: a["declines"]["below"].update(Visuals=float("nan"))),
        "Visuals should be a finite number",
    ),
    "a share of 0": (
        lambda f: changed(f, lambda a: a["categories"]["Visuals"].update(red=0)),
        "should be greater",
    ),
    "other provenance": (
        lambda f: changed(f, lambda a: a["provenance"].pop("crop")),
        "provenance with missing",
    ),
    "brackets": (
        lambda f: (f / "words.json").write_bytes(seal(f"{'[' * 200_000}{BLANK}".encode())),
        "is not JSON",
    ),
    "without a checksum": (lambda f: (f / "words.json").write_text("{}"), "of an earlier version"),
    "a device": (
        lambda f: changed(f, lambda a: a["weights"].update(file="/dev/zero")),
        "weights: file should",
    ),
    "a folder up": (
        lambda f: changed(f, lambda a: a["weights"].update(file="../words.json")),
        "weights: file should",
    ),
    "another size": (
        lambda f: changed(f, lambda a: a["weights"].update(size=10)),
        "the most is 10",
    ),
    "a vast size": (
        lambda f: changed(f, lambda a: a["weights"].update(size=2**40)),
        "size should be less",
    ),
    "a FIFO": (with_fifo, "is not a regular file"),
    "other weights": (
        lambda f: with_arrays(f, weights=np.zeros((3, 8), np.float32)),
        "weights [3, 8]",
    ),
    "no fold": (
        lambda f: with_arrays(f, weights=np.zeros((1, 2, 8), "f4"), bias=np.zeros((1, 2), "f4")),
        "weights [1,",
    ),
    "a limit of 0": (
        lambda f: changed(f, lambda a: a["familiarity"].update(limit=0.0)),
        "limit should be greater",
    ),
    "a factor of other clips": (
        lambda f: with_arrays(f, factor=np.eye(9, dtype="f4")),
        "and factor [9, 9]",
    ),
    "other familiarity": (
        lambda f: with_arrays(
            f, factor=np.eye(9, dtype="f4"), mean=np.zeros(9, "f4"), scale=np.ones(9, "f4")
        ),
        "noise [2] and mean [9]",
    ),
    "a scale that is NaN": (
        lambda f: with_arrays(f, scale=np.full(8, np.nan, np.float32)),
        "not finite",
    ),
    "weights that are NaN": (
        lambda f: with_arrays(f, bias=np.full((3, 2), np.nan, np.float32)),
        "not finite",
    ),
}
"""what a stranger does to a head of words, and what the one line about it has"""


@pytest.mark.parametrize("name", HEADS)
def test_a_head_of_words_of_a_stranger_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    write_words(tmp_path / "words", planted_provenance())
    change, message = HEADS[name]
    change(tmp_path / "words")
    with pytest.raises(StepDiffError, match=re.escape(message)) as error:
        WordHead.load(tmp_path / "words")
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


def test_a_head_of_other_channels_than_its_view_is_refused(theirs: Path, tmp_path: Path) -> None:
    head = write_words(tmp_path / "words", planted_provenance(), channels=9)
    with pytest.raises(
        StepDiffError, match="reads 9 channels, and the tokens of view planted have 8"
    ):
        head.check(Store.open(theirs / "store").view("clips", "planted"))


@pytest.mark.parametrize(
    "change", [{"reads": [1]}, {"store": "s3://x"}, {"data": 3}, {"trained_on": {"sha256": 1}}]
)
def test_a_lineage_of_a_stranger_is_refused_in_one_line(
    change: dict[str, Any], tmp_path: Path
) -> None:
    write_record(tmp_path, {"reads": {}, "init": None, **change})
    with pytest.raises(
        StepDiffError, match=f"lineage.json: damaged .{next(iter(change))}.*train again"
    ):
        run_record.read(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_lm: str) -> Path:
    """A folder with a world, `words`, and `run`, a small StepDiff that uses them."""
    world = write_world(tmp_path_factory.mktemp("trained"), WORLD)
    given = [
        "--store",
        str(world / "features"),
        "--view",
        "visual",
        "--pairqa",
        str(world / "pairqa.jsonl"),
    ]
    assert words.main([*given, "--out", str(world / "words"), "--least", "3", "--folds", "3"]) == 0
    schedule = {"steps": 2, "accumulate": 1, "warmup": 1, "validate_every": 1}
    more = {"schedule": schedule, "evidence": {"head": str(world / "words")}}
    assert train.main(["--config", str(recipe(world, tiny_lm, world / "run", **more))]) == 0
    return world


ABOUT = {"metrics.jsonl", "speed.jsonl", "loss.png", "lock.json"}
"""files of a run that say how its training went; no answer depends on them"""


@pytest.mark.full
@pytest.mark.timeout(900)
def test_a_flipped_bit_in_any_file_of_a_run_is_refused(trained: Path) -> None:
    run, store = trained / "run", Store.open(trained / "features")
    best, visible = Run(run).best(), new_mode(trained)
    unread = [path for path in Run(run).checkpoints() if path != best]

    def read() -> None:
        run_record.load_stepdiff(run, store)
        TrainedOn.of_run(run, run_record.read(run))

    for path in sorted(path for path in run.rglob("*") if path.is_file()):
        assert path.stat().st_mode == visible or path.parent.name == "tensorboard", path
        if (
            path.name not in ABOUT
            and path.parent.name != "tensorboard"
            and path.parent not in unread
        ):
            refuses_flips(path, read, 3)
    read()


def new_mode(folder: Path) -> int:
    """Return the mode of a new file."""
    (folder / "new").touch(0o644)
    return (folder / "new").stat().st_mode


@pytest.mark.full
def test_a_pass_removes_what_a_kill_left(trained: Path) -> None:
    folder, store = trained / "words", Store.open(trained / "features")
    given = str(trained / "features"), "visual", str(folder), str(trained / "pairqa.jsonl")
    options = WordOptions(*given, least=3, folds=3)
    assert {path.stat().st_mode for path in folder.iterdir()} == {new_mode(trained)}
    left = temporary(folder)
    left = left.with_name(left.name.replace(f".{os.getpid()}.", ".999999999."))
    left.touch()
    Counting(options, store).run()
    assert not left.exists()


FULL = """
import resource, signal, sys
from heads import words
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
raise SystemExit(words.main(sys.argv[1:]))
"""


@pytest.mark.full
def test_a_full_disk_ends_in_one_line(trained: Path, tmp_path: Path) -> None:
    given = [
        "--store",
        str(trained / "features"),
        "--view",
        "visual",
        "--pairqa",
        str(trained / "pairqa.jsonl"),
    ]
    given += ["--out", str(tmp_path / "words"), "--least", "3", "--folds", "3"]
    done = subprocess.run(
        [sys.executable, "-c", FULL, *given], cwd=ROOT, capture_output=True, text=True
    )
    assert (
        done.returncode == 2
        and "error: no space to write" in done.stderr
        and "Traceback" not in done.stderr
    )
    assert not list((tmp_path / "words").glob(".tmp*"))


@pytest.mark.full
@pytest.mark.parametrize(
    "name", ["lineage.json", "best.json", "SHA256SUMS", "{best}/state.json", "{best}/SHA256SUMS"]
)
def test_a_fifo_in_a_run_is_refused(trained: Path, tmp_path: Path, name: str) -> None:
    run = Path(shutil.copytree(trained / "run", tmp_path / "run"))
    path = run / name.format(best=Run(run).best().name)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(StepDiffError):
        run_record.load_stepdiff(run, Store.open(trained / "features"))


def test_what_data_name_is_no_request_and_no_read(
    tmp_path: Path, listening: Callable[[], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEPDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "org" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    for name in (
        "stranger/model",
        "org/model",
        str(folder),
        "~root/model",
        "/dev/zero",
        "../..",
        "x" * 5000,
        "a/b@c/..",
    ):
        with pytest.raises(StepDiffError, match="in use here|is no hub id"):
            resolve_of_data(name)
    assert not listening()
    assert main(["weights", "fetch", str(folder)]) == 0
    assert resolve_of_data(str(folder)) == folder
