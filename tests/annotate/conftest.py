"""A store with a catalog of clips."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from stepdiff_core.workers.cluster import connected
from store import Store
from tests.llm_server import server as server

# tests and worker processes import the jobs of tests from here
sys.path.insert(0, str(Path(__file__).parent))

CLIPS = [f"video-_{i}_0.0_{i + 1}.5" for i in range(6)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store of six clips, of which the second has no narration."""
    made = Store.open(tmp_path / "features", create=True)
    said = [f"now we whisk {i} eggs" if i != 1 else None for i in range(6)]
    rows = {
        "key": CLIPS,
        "step": ["whisk"] * 6,
        "split": ["train"] * 4 + ["test"] * 2,
        "narration": said,
    }
    made.catalog("clips").append(pl.DataFrame(rows))
    return made


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """A local Ray whose workers can import the jobs of tests."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(
            "PYTHONPATH",
            os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
        )
        environment.delenv("RAY_ADDRESS", raising=False)
        with connected(None, "stepdiff.annotate"):
            yield
