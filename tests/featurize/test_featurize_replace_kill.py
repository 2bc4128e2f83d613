"""A run with `--replace` that is killed before any one of its writes leaves no features of a video other than the
catalog's, and continues when it is run again."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from featurize.changes import compare
from featurize.manifest import read_manifest
from featurize.video.media_file import identity
from store import Feature, Provenance, Store
from store.verbs.verify import verify

ROOT = Path(__file__).parents[2]
VIEWS = ("clip", "second")

# A process with everything imported. For each line "STORE MANIFEST N" it forks a child that replaces changed clips and
# is killed before it renames its Nth file; it prints the exit status of the child.
RUNS = """
import os, signal, sys
from pathlib import Path
from featurize.changes import compare
from featurize.manifest import read_manifest
from store import Store

def run(store, manifest, kill_at):
    left = kill_at
    def counted(real):
        def call(*arguments, **options):
            nonlocal left
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)
        return call
    os.replace, os.link = counted(os.replace), counted(os.link)
    store = Store.open(store)
    with store.lock():
        changes = compare(store, read_manifest(Path(manifest)))
        changes.refuse(replace=True)
        changes.write(store)

for line in sys.stdin:
    pid = os.fork()
    if not pid:
        store, manifest, kill_at = line.split()
        run(store, manifest, int(kill_at))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.fixture
def runs() -> Iterator[Callable[..., int]]:
    command = [sys.executable, "-W", "ignore:.*use of fork:DeprecationWarning", "-c", RUNS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:

        def run(store: Path, manifest: Path, kill_at: int = 0) -> int:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(f"{store} {manifest} {kill_at}\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield run


def fill(store: Store, value: float) -> None:
    """Write `value` as the features of all absent clips in each view."""
    for name in VIEWS:
        provenance = Provenance(name, "0", "l", "f", "c", {})
        view = store.create_view("clips", name, provenance, {"tokens": Feature((2,), "float32")}, 2)
        view.resize()
        for row in np.flatnonzero(view.status() == 0).tolist():
            view.write_shard(row // 2, np.array([row]), {"tokens": np.full((1, 2), value, np.float32)}, {})


def states(path: Path, values: dict[object, float]) -> dict[str, list[int]]:
    """Return the status of each view and check that ok rows have the features of the catalog's file."""
    store = Store.open(path)
    assert verify(store) == []
    catalog = store.catalog("clips").frame()
    found = {}
    for name in VIEWS:
        view = store.view("clips", name)
        status = view.status()
        ok = np.flatnonzero(status == 1)
        expected = [values[digest] for digest in catalog["video_digest"].gather(ok)]
        assert view.read("tokens", ok)[:, 0].tolist() == expected, "features of another video than the catalog's"
        found[name] = status.tolist()
    return found


def test_a_kill_at_any_moment_during_replace_leaves_no_features_of_another_video(
    tmp_path: Path, video: Callable[..., Path], runs: Callable[..., int]
) -> None:
    old, new = video("good.mp4", g=10), video("other.mp4", codec="mpeg4")
    file = tmp_path / "clip.mp4"
    file.write_bytes(old.read_bytes())
    rows = [("one", str(file), 0, 1), ("two", str(file), 1, 2), ("three", str(old), 0, 1)]
    pl.DataFrame(rows, ["clip", "video", "start", "end"], orient="row").write_csv(tmp_path / "clips.csv")
    asked = read_manifest(tmp_path / "clips.csv")
    store = Store.open(tmp_path / "store", create=True)
    with store.lock():
        compare(store, asked).write(store)
        fill(store, 1.0)
    file.write_bytes(new.read_bytes())
    rows[1] = ("two", str(file), 0.5, 2)
    pl.DataFrame(rows, ["clip", "video", "start", "end"], orient="row").write_csv(tmp_path / "clips.csv")
    identities = identity(old), identity(new)
    assert identities[0] is not None and identities[1] is not None
    values: dict[object, float] = {identities[0].digest: 1.0, identities[1].digest: 2.0}
    absent = {name: [0, 0, 1] for name in VIEWS}

    seen = []
    for kill_at in range(1, 100):
        killed = tmp_path / f"killed{kill_at}"
        shutil.copytree(tmp_path / "store", killed)
        ended = runs(killed, tmp_path / "clips.csv", kill_at)
        seen.append(states(killed, values))
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
        assert runs(killed, tmp_path / "clips.csv") == 0
        assert states(killed, values) == absent
        with Store.open(killed).lock():
            fill(Store.open(killed), 2.0)
        assert states(killed, values) == {name: [1, 1, 1] for name in VIEWS}
        catalog = Store.open(killed).catalog("clips").frame()
        assert catalog["start"].to_list() == [0.0, 0.5, 0.0]
    assert ended == 0 and kill_at > 4, "fewer writes than views and parts of the catalog"
    assert seen[0] == {name: [1, 1, 1] for name in VIEWS} and seen[-1] == absent
    assert {"clip": [0, 0, 1], "second": [1, 1, 1]} in seen
