"""A small store with planted differences, shared by the tests of heads."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from heads import train
from heads.reporting.entries import PredictionEntry
from heads.reporting.figures import Measured, measure
from stepdiff_core.tasks.testsets import ROWS, write_predictions, write_test_set
from store import Feature, Provenance, Store, text_key
from tests.llm_server import server as server

Capture = pytest.CaptureFixture[str]
TOKENS, CHANNELS = 16, 24
TOOLS = ("whisk", "spoon", "fork")
SYSTEMS = {
    "VCLM": ("clips",),
    "Interleaved": ("sequences", "images"),
    "StepDiff": ("sequences", "images", "pairs"),
}
CLIPS = [f"video-_{i}_0.0_{i + 1}.5" for i in range(24)]
"""of the world, in its order"""


def write_rows(path: Path, rows: Iterable[Any]) -> str:
    """Write JSON lines; return the path as text."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read_rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def provenance(encoder: str) -> Provenance:
    return Provenance(encoder, "0" * 64, "last", "8 linspace", "none", {"embedding": "float32"})


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `features` (24 clips, two steps, a tool planted in their tokens) and files in
    published formats."""
    return write_world(tmp_path_factory.mktemp("world"), CLIPS)


def write_world(folder: Path, clips: list[str]) -> Path:
    """Write the files of a world whose clips have these ids."""
    rng = np.random.default_rng(0)
    splits = ["train"] * 12 + ["val"] * 6 + ["test"] * 6
    tools = [TOOLS[i % 3] for i in range(24)]
    texts = [f"now the {tool} goes around, number {i}" for i, tool in enumerate(tools)]
    planted = rng.standard_normal((3, CHANNELS))
    store = Store.open(folder / "features", create=True)
    with store.lock():
        store.catalog("clips").append(
            pl.DataFrame(
                {
                    "key": clips,
                    "video": [f"video {i // 4}" for i in range(24)],
                    "end": [float(23 - i) for i in range(24)],  # in another order than the rows
                    "split": splits,
                    "step": [f"step {i // 3 % 2}" for i in range(24)],
                    "narration": texts,
                    "caption": [
                        f"a picture of a {tool}" if i % 2 else None for i, tool in enumerate(tools)
                    ],
                }
            )
        )
        view = store.create_view(
            "clips",
            "visual",
            provenance("visual"),
            {
                "tokens": Feature((TOKENS, CHANNELS), "float16"),
                "embedding": Feature((CHANNELS,), "float32"),
            },
            rows_per_shard=16,
        )
        view.resize()
        tokens = rng.standard_normal((24, TOKENS, CHANNELS)) * 0.3
        tokens += planted[[i % 3 for i in range(24)]][:, None]
        for shard, rows in enumerate((np.arange(16), np.arange(16, 24))):
            part = tokens[rows].astype(np.float32)
            view.write_shard(shard, rows, {"tokens": part, "embedding": part.mean(axis=1)}, {})
        keys = [text_key(text) for text in texts]
        store.catalog("texts").append(pl.DataFrame({"key": keys, "text": texts}))
        side = store.create_view(
            "texts", "words", provenance("words"), {"embedding": Feature((8,), "float32")}
        )
        side.resize()
        words = np.eye(8, dtype=np.float32)[[i % 3 for i in range(24)]]
        side.write_shard(0, np.arange(24), {"embedding": words}, {})

    def write(name: str, rows: list[dict]) -> None:
        write_rows(folder / name, rows)

    pairs = [(i, j) for i in range(12) for j in range(12) if i != j]
    questions = []
    for i, j in pairs:
        both = {"reference": clips[i], "candidate": clips[j], "category": "Tools/Equipment"}
        same = "YES" if tools[i] == tools[j] else "NO"
        questions.append(
            both | {"type": 3, "question": "Do they share a similar tool?", "answer": same}
        )
        answer = f"In Video 1, a {tools[i]}, in Video 2, a {tools[j]}."
        questions.append(both | {"type": 1, "question": "What differs?", "answer": answer})
        if same == "NO":
            which = f"Which video has the {tools[j]}?"
            questions.append(both | {"type": 2, "question": which, "answer": "Video 2"})
    write("pairqa.jsonl", questions)
    for split, first in (("val", 12), ("test", 18)):
        a, b, c, d, e, f = clips[first : first + 6]
        write(
            f"diffmcq_{split}.jsonl",
            [
                {
                    "difference": texts[first],
                    "category": "Tools/Equipment",
                    "options": [[a, b], [b, c], [c, a], [e, f]],
                    "answer": [a, b],
                },
                {
                    "difference": texts[first + 1],
                    "category": "Tools/Equipment",
                    "options": [[c, d], [b, c], [a, b], [e, f]],
                    "answer": [b, c],
                },
            ],
        )
        write(
            f"diffrank_{split}.jsonl",
            [
                {
                    "reference": a,
                    "targets": [b, c, d, e],
                    "category": "Visuals",
                    "scores": [2, 3, 5, 0],
                },
                {
                    "reference": b,
                    "targets": [a, c, e, f],
                    "category": "Visuals",
                    "scores": [1, 4, 5, 0],
                },
            ],
        )
        write(
            f"diffcap_{split}.jsonl",
            [
                {
                    "reference": a,
                    "candidate": b,
                    "category": "Visuals",
                    "text": ["a spoon", "with a spoon"],
                }
            ],
        )
    return folder


def recipe(world: Path, tiny_lm: str, out: Path, **more: object) -> Path:
    """Write a recipe of a few steps on the tiny world."""
    video_lm: dict = {
        "view": "visual",
        "language_model": tiny_lm,
        "pairqa": str(world / "pairqa.jsonl"),
        "projector": {"width": 16, "heads": 2, "outputs": 4},
        "batch": 3,
        "schedule": {"steps": 6, "accumulate": 2, "warmup": 2, "validate_every": 2},
        "validation": {
            "diffmcq": str(world / "diffmcq_val.jsonl"),
            "diffrank": str(world / "diffrank_val.jsonl"),
            "rows": 2,
        },
        "lora": {"rank": 2},
    }
    for key, value in more.items():
        video_lm[key] = value
    path = out.with_suffix(".yaml")
    path.write_text(
        yaml.safe_dump({"store": str(world / "features"), "out": str(out), "video_lm": video_lm})
    )
    return path


def evaluation(world: Path, task: str, method: str, out: Path, *more: str) -> list[str]:
    """Return the arguments of heads.evaluate for a test set of a world."""
    given = [
        "--task",
        task,
        "--method",
        method,
        "--store",
        str(world / "features"),
        "--bootstrap",
        "0",
    ]
    return [*given, "--test-set", str(world / f"{task}_test.jsonl"), "--out", str(out), *more]


def contrastive(store: str, out: Path, **more: object) -> Path:
    """Write a recipe of a contrastive head of a few steps on the tiny world."""
    options = {
        "view": "visual",
        "text_view": "words",
        "width": 8,
        "clips": 6,
        "projector": {"width": 16, "heads": 2, "outputs": 1},
        "schedule": {"steps": 30, "validate_every": 10, "learning_rate": 0.003},
    }
    path = out.with_suffix(".yaml")
    path.write_text(
        yaml.safe_dump({"store": store, "out": str(out), "contrastive": options | more})
    )
    return path


def add_texts(store: Store, texts: list[str], vectors: np.ndarray) -> None:
    """Add texts and their embeddings to the view `words` of a copy of the world's store."""
    with store.lock():
        first = len(store.catalog("texts"))
        store.catalog("texts").append(
            pl.DataFrame({"key": [text_key(text) for text in texts], "text": texts})
        )
        side = store.view("texts", "words")
        side.resize()
        side.write_shard(
            0, np.arange(first, first + len(texts)), {"embedding": vectors.astype(np.float32)}, {}
        )


@pytest.fixture(scope="session")
def trained(world: Path, tiny_lm: str) -> Path:
    out = world / "run"
    assert train.main(["--config", str(recipe(world, tiny_lm, out))]) == 0
    return out


@pytest.fixture(scope="session")
def frozen(world: Path, tiny_lm: str) -> Path:
    """A head in float32, whose language model is frozen."""
    out = world / "frozen"
    assert (
        train.main(["--config", str(recipe(world, tiny_lm, out, lora=None, precision="float32"))])
        == 0
    )
    return out


@pytest.fixture(scope="session")
def aligned(world: Path) -> Path:
    """A contrastive head."""
    out = world / "align"
    assert train.main(["--config", str(contrastive(str(world / "features"), out))]) == 0
    return out


# a control may have the best score
SKILL = {"StepDiff": 2.0, "VLEmb": 1.0, "weak | $x_1$": 0.3, "no video": 3.0}


def clip(random: np.random.Generator) -> str:
    return f"video_{random.integers(12)}_{random.integers(50)}.5_{random.integers(50, 99)}"


@pytest.fixture(scope="session")
def entries(tmp_path_factory: pytest.TempPathFactory) -> list[PredictionEntry]:
    """Predictions of four methods for the three tasks, 80 rows each; captions are raw, and VLEmb
    has none."""
    folder, random = tmp_path_factory.mktemp("report"), np.random.default_rng(0)

    def words() -> str:
        return " ".join(random.choice(list("abcdefgh"), 8))

    caps = [
        ROWS["diffcap"](clip(random), clip(random), "Visuals", (words(), words()))
        for _ in range(80)
    ]  # type: ignore
    ranks = [
        ROWS["diffrank"](
            clip(random), tuple(clip(random) for _ in range(4)), "Actions", (5, 3, 2, 0)
        )  # type: ignore
        for _ in range(80)
    ]
    choices = []
    for _ in range(80):
        options = tuple((clip(random), clip(random)) for _ in range(4))
        choices.append(ROWS["diffmcq"](words(), ("Visuals"), options, options[random.integers(4)]))  # type: ignore
    for task, rows in (("diffcap", caps), ("diffmcq", choices), ("diffrank", ranks)):
        write_test_set(task, folder / f"{task}.jsonl", rows)  # type: ignore
    written = []

    def add(method: str, task: Any, answers: list[Any], **more: Any) -> None:
        path = folder / f"said_{len(written)}.jsonl"
        write_predictions(task, path, answers)
        written.append(
            PredictionEntry(method, task, str(folder / f"{task}.jsonl"), str(path), **more)
        )

    def chosen(skill: float) -> list[list[float]]:
        return [
            [float(random.normal() + skill * (o == row.answer)) for o in row.options]
            for row in choices
        ]

    for method, skill in SKILL.items():
        if method != "VLEmb":
            answers = [
                "In Video 1, the person is using x, while in Video 2, the person is "
                + " ".join(
                    word if random.random() < skill / 3 else "x" for word in row.text[0].split()
                )
                + "."
                for row in caps
            ]
            add(method, "diffcap", answers, parsed=False)
        add(method, "diffmcq", chosen(skill))
        add(
            method,
            "diffrank",
            [[float(random.normal() + skill * s) for s in row.scores] for row in ranks],
        )
    add("VLEmb", "diffmcq", chosen(0.7), pair="reference")
    add("StepDiff", "diffmcq", chosen(2.0), variant="V3")
    return written


@pytest.fixture(scope="session")
def measured(entries: list[PredictionEntry]) -> Measured:
    """The figures of the entries, over 200 resamples."""
    return measure(entries, 200, seed=0)


def config(entries: list[PredictionEntry], path: Path, **more: Any) -> str:
    settings = {
        "ours": ["StepDiff"],
        "controls": ["no video"],
        "predictions": [asdict(entry) for entry in entries],
    }
    path.write_text(yaml.safe_dump(settings | more))
    return str(path)
