"""Options of heads.train that depend on how it was launched: by torchrun, or as a Ray job."""

from pathlib import Path
from typing import Any

import pytest

from heads import train
from weights import NAMES

from .conftest import recipe
from .processes import in_processes
from .test_parallel import RUNS, command

pytestmark = pytest.mark.timeout(1000)


def test_an_address_is_refused_under_torchrun(
    world: Path,
    tiny_lm: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    path = str(recipe(world, tiny_lm, tmp_path / "run", **RUNS))
    assert train.main(["--config", path, "--address", "auto"]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: --address auto starts workers on Ray, and torchrun has started its own")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--workers", "3"], "--workers 3"),
        (["--workers", "1"], "--workers 1"),
        (["--scaling.workers", "3"], "scaling.workers 3"),
        (["--workers", "2"], None),
        ([], None),
    ],
)
def test_a_number_of_workers_that_torchrun_does_not_start_is_reported_once(
    more: list[str], said: str | None, world: Path, tiny_lm: str, tmp_path: Path
) -> None:
    path = str(recipe(world, tiny_lm, tmp_path / "run", schedule={"steps": 2, "accumulate": 3}))
    assert in_processes(command, 2, tmp_path / "logs", path, None, more) == [2, 2]
    first, second = ((tmp_path / f"logs/rank-{rank}.log").read_text().splitlines() for rank in (0, 1))
    notice = f"{said} is not used: the workers are the 2 processes that torchrun started"
    refused = "error: video_lm.schedule.accumulate 3, the batches of a step, does not divide among 2 workers; "
    assert first[:-1] == [notice] * (said is not None) and first[-1].startswith(refused)
    assert len(second) == 1 and second[0].startswith(refused), "the other processes print no notice"


def test_inside_a_ray_job_a_relative_folder_of_a_language_model_is_refused(
    world: Path,
    tiny_lm: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.chdir(tmp_path)
    path = str(recipe(world, tiny_lm, tmp_path / "run", **RUNS))
    reached: list[str] = []

    def instead(options: Any, *_: Any) -> dict[str, Any]:
        reached.append(options.video_lm.language_model)
        return {"step": 6, "score": None}

    monkeypatch.setattr("heads.workers.fit.fit", instead)
    (tmp_path / "models" / "llama").mkdir(parents=True)
    (tmp_path / NAMES[0]).mkdir()  # the registered name comes first
    for name in ("models/llama", "./models/llama"):
        assert train.main(["--config", path, "--video-lm.language-model", name]) == 2
        (error,) = capsys.readouterr().err.splitlines()
        assert f"video_lm.language_model {name!r} is relative: inside a Ray job" in error
    allowed = ["org/name", "org/name@main", NAMES[0], str(tmp_path / "models" / "llama")]
    for name in allowed:
        assert train.main(["--config", path, "--video-lm.language-model", name]) == 0
    assert reached == allowed
