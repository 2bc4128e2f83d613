"""The sample world in the form of CaptainCook4D's annotations: its rarest ways to do a step count as mistakes."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from kitchen.attributes import Attributes
from kitchen.drawing.video import draw
from kitchen.steps import ACTIVITIES, STEPS
from kitchen.world import Video
from store import Feature, Provenance, Store, View
from tasks.benchmarks.captaincook_files import SPLIT

RECIPES = list(ACTIVITIES)
STEP_IDS = {name: number for number, name in enumerate(STEPS, 1)}


def mistakes_of(truth: Attributes) -> list[dict[str, str]]:
    """Return the mistakes of a performance: a motion or a main ingredient of another kind than is usual in its step."""
    step, found = STEPS[truth.step], []
    if truth.motion == step.motion[2]:
        found.append({"tag": "Technique Error", "description": f"moves by {truth.motion}, not {step.motion[0]}"})
    if truth.main == step.main[2]:
        found.append({"tag": "Preparation Error", "description": f"uses {truth.main} instead of {step.main[0]}"})
    return found


def write_recipes(folder: Path, world: list[Video]) -> None:
    """Write the annotations of the videos, all of them in the part "test". A step of a recipe that a video does not
    show is a skipped one."""
    recordings = []
    for video in world:
        steps: list[dict[str, Any]] = []
        for clip in video.clips:
            step = {"step_id": STEP_IDS[clip.truth.step], "description": clip.truth.step}
            steps.append(step | {"start_time": clip.start, "end_time": clip.end})
            if mistakes := mistakes_of(clip.truth):
                steps[-1]["errors"] = mistakes
        for name in set(ACTIVITIES[video.activity]) - {clip.truth.step for clip in video.clips}:
            error = {"tag": "Missing Step", "description": "Skipped this step"}
            skipped = {"step_id": STEP_IDS[name], "description": name, "errors": [error]}
            steps.append(skipped | {"start_time": -1.0, "end_time": -1.0})
        names = {"recording_id": video.uid, "activity_id": RECIPES.index(video.activity)}
        recordings.append(names | {"is_error": any("errors" in step for step in steps), "step_annotations": steps})
    (folder / "annotation_json").mkdir(parents=True)
    (folder / "annotation_json" / "error_annotations.json").write_text(json.dumps(recordings), encoding="utf-8")
    (folder / SPLIT).parent.mkdir()
    parts = {"train": [], "val": [], "test": [video.uid for video in world]}
    (folder / SPLIT).write_text(json.dumps(parts), encoding="utf-8")


def pixels_of(world: list[Video], moments: int = 2, size: tuple[int, int] = (16, 12)) -> dict[tuple[str, float], Any]:
    """Return a small picture of each clip as a vector: the mean of some moments. The key is its video and start."""
    found = {}
    for video in world:
        for clip in video.clips:
            times = np.linspace(0, clip.end - clip.start, moments + 2)[1:-1]
            frames = [np.asarray(draw(clip, video, float(now)).convert("RGB").resize(size), float) for now in times]
            found[video.uid, clip.start] = np.mean(frames, axis=0).ravel()
    middle = np.mean(list(found.values()), axis=0)
    return {key: (vector - middle).astype(np.float32) for key, vector in found.items()}


def fill_view(store: Store, name: str, keys: list[str], vectors: np.ndarray, entity: str = "clips") -> View:
    """Write one embedding for each row of the catalog, which has exactly these keys."""
    made_by = Provenance(name, "0" * 64, "last", "2", "resize", {"embedding": "float32"})
    rows = store.catalog(entity).rows(keys)
    view = store.create_view(entity, name, made_by, {"embedding": Feature((vectors.shape[1],), "float32")}, 1024)
    view.resize()
    order = np.argsort(rows)
    view.write_shard(0, rows[order], {"embedding": vectors[order]}, {})
    return view
