"""What `heads` writes where --out is the URL of an object store: a refusal, or a report in that store."""

from pathlib import Path

import pytest

from common.io.files import place
from heads import evaluate, report, train
from heads.reporting.entries import Entry

from .conftest import config, recipe


@pytest.mark.parametrize("out", ["s3://bucket/run", "hdfs://host/run", "file:///tmp/run", "s3:/bucket/run"])
@pytest.mark.parametrize("more", [[], ["--dry-run"], ["--workers", "2"]])
def test_a_url_as_the_folder_of_a_run_is_refused_before_anything_is_written(
    out: str,
    more: list[str],
    world: Path,
    tiny_lm: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = str(recipe(world, tiny_lm, tmp_path / "run"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert train.main(["--config", path, "--out", out, *more]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: --out {out} is a URL: give a path of a file system")
    assert not list((tmp_path / "here").iterdir())


def test_a_url_as_the_file_of_predictions_is_refused(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["--task", "diffmcq", "--method", "random", "--test-set", str(world / "diffmcq_test.jsonl")]
    assert evaluate.main([*given, "--out", "s3://bucket/p.jsonl"]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: --out s3://bucket/p.jsonl is a URL: give a path of a file system")
    assert not list(tmp_path.iterdir())


def test_a_report_in_an_object_store_leaves_no_local_folder(
    made: list[Entry], bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = config(made, tmp_path / "report.yaml")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert report.main(["--config", path, "--bootstrap", "0", "--out", f"{bucket}/report"]) == 0
    assert {"report.json", "report.md", "report.tex"} <= {file.name for file in place(f"{bucket}/report").files()}
    assert not list((tmp_path / "here").iterdir())
