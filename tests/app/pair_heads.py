"""Two small random heads for the sample world of the pages, their predictions, and requests whose
events are read."""

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import yaml

from heads import evaluate, train, words

HEADS = ("other", "small")
"""names of the heads"""
ROWS = 8
"""of each file of predictions"""


def write_runs(world: Path, language_model: str, folder: Path) -> tuple[Path, Path]:
    """Train both heads for two steps and write predictions of `small`; return the folders of runs
    and predictions."""
    runs, said = folder / "runs", folder / "predictions"
    for seed, name in enumerate(HEADS):
        write_head(world, language_model, runs / name, seed)
    for task in ("diffcap", "diffrank"):
        options = [
            "--task",
            task,
            "--method",
            "video-lm",
            "--head",
            str(runs / "small"),
            "--rows",
            str(ROWS),
        ]
        options += [
            "--store",
            str(world / "features"),
            "--test-set",
            str(world / f"kitchen/{task}_test.jsonl"),
        ]
        options += ["--allow-seen", "--bootstrap", "0", "--out", str(said / f"{task}_small.jsonl")]
        assert evaluate.main(options) == 0
    return runs, said


def write_head(
    world: Path, language_model: str, out: Path, seed: int = 0, evidence: Path | None = None
) -> None:
    """Train a head for two steps. evidence: folder of the head of words that it uses."""
    recipe = {
        "store": str(world / "features"),
        "out": str(out),
        "seed": seed,
        "video_lm": {
            "view": "efficientnet-lite0",
            "language_model": language_model,
            "pairqa": str(world / "kitchen/pairqa_train.jsonl"),
            "projector": {"width": 16, "heads": 2, "outputs": 4},
            "batch": 2,
            "schedule": {"steps": 2, "accumulate": 1, "warmup": 1, "validate_every": 2},
            "validation": None,
            "lora": {"rank": 2},
            "evidence": None if evidence is None else {"head": str(evidence)},
        },
    }
    path = out.parent.parent / f"{out.name}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    assert train.main(["--config", str(path)]) == 0


def write_words(world: Path, out: Path) -> Path:
    """Fit a head of words to the sample world; return its folder."""
    given = [
        "--store",
        str(world / "features"),
        "--view",
        "efficientnet-lite0",
        "--out",
        str(out),
        "--least",
        "4",
    ]
    assert (
        words.main(
            [
                *given,
                "--pairqa",
                str(world / "kitchen/pairqa_train.jsonl"),
                "--least-distance",
                "0.5",
            ]
        )
        == 0
    )
    return out


class Asked:
    """A request to the model, whose events are read one by one."""

    opened: ClassVar[list["Asked"]] = []

    def __init__(self, url: str, path: str, **body: Any) -> None:
        place = urlsplit(url)
        self._connection = HTTPConnection(str(place.hostname), int(place.port or 0), timeout=120)
        headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream, application/json",
        }
        self._connection.request("POST", path, json.dumps(body).encode(), headers)
        self._answer = self._connection.getresponse()
        self.status = self._answer.status
        self.opened.append(self)

    def events(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield name and data of each event."""
        name = ""
        for line in self._answer:
            field, _, value = line.decode().rstrip("\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                yield name, json.loads(value)

    def last(self) -> tuple[str, dict[str, Any]]:
        """Return the last event."""
        return list(self.events())[-1]

    def error(self) -> str:
        """Return the sentence of a refused request."""
        return str(json.loads(self._answer.read())["error"])

    def close(self) -> None:
        """Close the connection, as a closed tab does."""
        self._answer.close()
        self._connection.close()

    @classmethod
    def close_all(cls) -> None:
        """Close what a test has left open."""
        while cls.opened:
            cls.opened.pop().close()
