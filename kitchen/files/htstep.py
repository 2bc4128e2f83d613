"""The world as HT-Step files: annotations, taxonomy and splits."""

from kitchen.steps import ACTIVITIES
from kitchen.world import Video

COLUMNS = (
    "global_step_index", "activity", "step_index", "variation", "variation_index", "headline",
    "paragraph",
)  # fmt: skip

SUBSETS = ("test_seen", "test_unseen", "train", "val_seen", "val_unseen")


def taxonomy() -> list[dict[str, object]]:
    """One row for every step of every recipe."""
    rows: list[dict[str, object]] = []
    for activity, steps in ACTIVITIES.items():
        for index, step in enumerate(steps):
            rows.append(
                {
                    "global_step_index": len(rows),
                    "activity": activity,
                    "step_index": index,
                    "variation": "none",
                    "variation_index": index + 1,
                    "headline": f"{step.capitalize()}.",
                    "paragraph": "",
                }
            )
    return rows


def annotations(world: list[Video]) -> dict[str, object]:
    """Which step of the taxonomy each clip shows; segments in seconds."""
    places = [(activity, step) for activity, steps in ACTIVITIES.items() for step in steps]
    index = {place: i for i, place in enumerate(places)}
    return {
        video.uid: {
            "subset": video.subset,
            "activity": video.activity,
            "annotations": [
                {
                    "id": index[video.activity, clip.truth.step],
                    "segment": [clip.start, clip.end],
                }
                for clip in video.clips
            ],
        }
        for video in world
    }


def splits(world: list[Video]) -> dict[str, list[str]]:
    """Videos of each subset; `unseen` holds the recipes that no training video follows."""
    return {subset: [v.uid for v in world if v.subset == subset] for subset in SUBSETS}
