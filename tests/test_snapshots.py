"""Every command either reads `PATH@NAME` as the store was, or refuses it in one line and writes
nothing."""

import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from stepdiff.annotate.stages.stage import Version
from store import Feature, Provenance, Store, text_key

CLIPS, WORDS = 12, ("whisk", "pour", "bake", "crack", "fry", "cut")
MADE = Provenance("net", "0" * 64, "last", "8 evenly", "centre 224", {"embedding": "float32"})
FEATURES = {"embedding": Feature((8,), "float32")}

READ = {
    "query of a clip": "retrieval query --view net --clip c0 --out OUT.jsonl",
    "query of a text": "retrieval query --view net --text whisk --out OUT.jsonl",
    "duplicates": "retrieval duplicates --view net --threshold 0.2 --out OUT.jsonl",
    "neighbours": "retrieval neighbours --view net -k 2 --out OUT.parquet",
    "negatives": (
        "retrieval negatives --view net --text-view net --test-set DIFFCAP --out OUT.jsonl"
    ),
    "pairs": "stepdiff.annotate.pairs --other 0 --out OUT.parquet",
}
REFUSED = {
    "build": "retrieval build --view net",
    "captions": "stepdiff.annotate.captions --kind action --model some --view net",
    "ground": "stepdiff.annotate.ground --view net --weights some",
    "describe": "stepdiff.annotate.describe --narration none",
    "featurize": "featurize --encoder mpnet-base --manifest TEXTS",
}


def write(store: Store, seed: int) -> None:
    """Write other vectors and other steps for each seed."""
    rng = np.random.default_rng(seed)
    keys = [f"c{at}" for at in range(CLIPS)]
    clips = {
        "key": keys,
        "video": [f"v{at}.mp4" for at in range(CLIPS)],
        "split": ["train"] * CLIPS,
    }
    frame = pl.DataFrame({**clips, "step": rng.permutation(["whisk", "pour"] * (CLIPS // 2))})
    texts = pl.DataFrame({"key": [text_key(word) for word in WORDS], "text": WORDS})
    for entity, rows in (("clips", frame), ("texts", texts)):
        with store.lock():
            if entity in store.entities():
                store.catalog(entity).update(rows)
                store.view(entity, "net").withdraw(np.arange(rows.height))
            else:
                store.catalog(entity).append(rows)
        with store.writer(entity, "net", MADE, FEATURES) as writer:
            writer.write(
                rows["key"].to_list(),
                {"embedding": rng.normal(size=(rows.height, 8)).astype(np.float32)},
            )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `then`, a store, and `now`, whose snapshot v1 is equal to it and whose rows are
    others now."""
    made = tmp_path_factory.mktemp("snapshots")
    store = Store.open(made / "now", create=True)
    write(store, 0)
    for stage in ("captions-objects", "captions-action", "ground"):
        Version(store, stage, {"model": "net"}).create()
    shutil.copytree(made / "now", made / "then")
    store.tag("v1")
    write(store, 1)
    rows = [
        {
            "reference": f"c{2 * at}",
            "candidate": f"c{2 * at + 1}",
            "category": "Actions",
            "text": [word],
        }
        for at, word in enumerate(WORDS)
    ]
    (made / "DIFFCAP").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (made / "texts.csv").write_text("text\nstir\n")
    return made


def run(command: str, store: str, out: Path, folder: Path) -> int:
    module, *words = command.split()
    given = {"DIFFCAP": str(folder / "DIFFCAP"), "TEXTS": str(folder / "texts.csv")}
    words = [given.get(word, word.replace("OUT", str(out))) for word in words]
    name = f"{module}.__main__" if module in ("retrieval", "featurize") else module
    return int(importlib.import_module(name).main([*words, "--store", store]))


def content(folder: Path, out: str) -> object:
    (found,) = folder.glob(f"{out}.*")
    return pl.read_parquet(found).to_dicts() if found.suffix == ".parquet" else found.read_text()


@pytest.mark.parametrize("name", READ)
def test_a_command_that_reads_gives_the_results_of_then(
    name: str, folder: Path, tmp_path: Path
) -> None:
    stores = {"then": f"{folder}/then", "v1": f"{folder}/now@v1", "now": f"{folder}/now"}
    for out, store in stores.items():
        assert run(READ[name], store, tmp_path / out, folder) == 0
    then, at_v1, now = (content(tmp_path, out) for out in stores)
    assert at_v1 == then and now != then


@pytest.mark.parametrize("name", REFUSED)
def test_a_command_that_writes_is_refused_in_one_line(
    name: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("featurize.job.find_weights", lambda *given: tmp_path)
    before = files(folder / "now")
    assert run(REFUSED[name], f"{folder}/now@v1", tmp_path / "out", folder) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and shown.startswith(f"error: snapshot v1 of {folder}/now ")
    assert files(folder / "now") == before and not list(tmp_path.iterdir())


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
