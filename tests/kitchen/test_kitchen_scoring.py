"""The scores follow from the ground truth by the scoring matrix."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitchen.attributes import Attributes, differences, score
from kitchen.steps import MAIN, STEPS
from kitchen.world import make_world
from tasks.testsets import CATEGORIES

CLIPS = [clip for video in make_world(60, 3) for clip in video.clips]
BY_STEP = {s: [c.truth for c in CLIPS if c.truth.step == s] for s in STEPS}

WHISK = Attributes(
    step="whisk the eggs", main="hen eggs", extras=("herbs",), amount="small", tool="whisk",
    vessel="glass bowl", surface="wooden table", gloves="bare hands", trim="red", speed="slow",
    motion="in circles", hands="one hand", manner="level", heat=None, sequence=("wipe", MAIN),
    colour="yellow", shade="light", texture="runny", size=None, detail="plain",
)  # fmt: skip
FRY = replace(
    WHISK, step="stir-fry the vegetables", main="carrot", tool="wooden spoon", vessel="steel pan",
    surface="gas stove", manner=None, heat="low", colour="orange", texture=None, size="small",
)  # fmt: skip


def of_kind(step: str, attribute: str, value: str) -> str:
    """Return the kind of a value, derived again from its words."""
    last = getattr(STEPS[step], attribute)[2] if attribute in ("main", "motion") else None
    if attribute in ("main", "motion"):
        return "other" if value == last else "first"
    if attribute == "tool":
        return "machine" if value.startswith("electric") else "hand"
    return value if value.endswith("stove") else "counter"


def naive(category: str, a: dict, b: dict) -> int:
    """Apply the matrix to two records of attributes.jsonl, row by row from the lowest score."""
    if a["step"] != b["step"]:
        return 0

    def differs(name: str) -> bool:
        return a[name] != b[name]

    def other_kind(name: str) -> bool:
        return of_kind(a["step"], name, a[name]) != of_kind(a["step"], name, b[name])

    minor = len(set(a["extras"]) ^ set(b["extras"]))
    if category == "Ingredients":
        if minor >= 3 or other_kind("main"):
            return 2
        return 3 if minor else 4 if differs("main") or differs("amount") else 5
    if category == "Tools/Equipment":
        count = sum(map(differs, ("tool", "vessel", "surface", "gloves")))
        if count >= 4:
            return 2
        if count >= 2 or other_kind("tool") or other_kind("surface"):
            return 3
        return 4 if count else 5
    if category == "Technique":
        count = sum(map(differs, ("speed", "motion", "hands", "manner", "heat")))
        if differs("heat") or other_kind("motion") or count >= 4:
            return 2
        return 3 if count >= 2 else 4 if count else 5
    if category == "Actions":
        exchanged = len(set(a["sequence"]) ^ set(b["sequence"]))
        common = set(a["sequence"]) & set(b["sequence"])
        order = [[x for x in r["sequence"] if x in common] for r in (a, b)]
        if exchanged >= 4:
            return 1
        if exchanged >= 2 or (order[0] != order[1] and other_kind("main")):
            return 2
        return 3 if exchanged else 4 if order[0] != order[1] else 5
    if differs("colour") or differs("texture"):
        return 2
    return 3 if differs("shade") or differs("size") else 4 if differs("detail") else 5


def test_scores_follow_from_attributes() -> None:
    seen = set()
    for truths in BY_STEP.values():
        for a, b in itertools.combinations(truths[:14], 2):
            for category in CATEGORIES:
                found = score(category, a, b)
                assert found == naive(category, a.as_dict(), b.as_dict())
                seen.add((category, found))
    assert {s for c, s in seen if c == "Actions"} == {1, 2, 3, 4, 5}
    for category in CATEGORIES:
        assert {2, 3, 4, 5} <= {s for c, s in seen if c == category}


@pytest.mark.parametrize(
    ("category", "change", "expected"),
    [
        ("Ingredients", {"main": "quail eggs"}, 4),
        ("Ingredients", {"amount": "large"}, 4),
        ("Ingredients", {"extras": ()}, 3),
        ("Ingredients", {"extras": ("garlic",)}, 3),
        ("Ingredients", {"extras": ("garlic", "peppercorns")}, 2),
        ("Ingredients", {"main": "tofu"}, 2),
        ("Tools/Equipment", {"trim": "blue"}, 5),
        ("Tools/Equipment", {"tool": "fork"}, 4),
        ("Tools/Equipment", {"vessel": "metal bowl"}, 4),
        ("Tools/Equipment", {"tool": "electric mixer"}, 3),
        ("Tools/Equipment", {"tool": "fork", "vessel": "metal bowl"}, 3),
        (
            "Tools/Equipment",
            {"tool": "fork", "vessel": "metal bowl", "surface": "steel counter", "gloves": "oven mitts"},
            2,
        ),
        ("Technique", {"speed": "fast"}, 4),
        ("Technique", {"motion": "back and forth"}, 4),
        ("Technique", {"speed": "fast", "hands": "both hands"}, 3),
        ("Technique", {"motion": "folding"}, 2),
        ("Actions", {"sequence": (MAIN, "wipe")}, 4),
        ("Actions", {"sequence": (MAIN,)}, 3),
        ("Actions", {"sequence": ("taste", MAIN)}, 2),
        ("Actions", {"sequence": (MAIN, "wipe"), "main": "tofu"}, 2),
        ("Actions", {"sequence": ("taste", MAIN, "cover", "timer")}, 1),
        ("Visuals", {"detail": "streaks"}, 4),
        ("Visuals", {"shade": "dark"}, 3),
        ("Visuals", {"texture": "frothy"}, 2),
        ("Visuals", {"colour": "white"}, 2),
    ],
)
def test_each_case_of_the_matrix(category: str, change: dict, expected: int) -> None:
    assert score(category, WHISK, replace(WHISK, **change)) == expected


def test_heat_surface_and_size_are_scored_in_their_own_categories() -> None:
    assert score("Technique", FRY, replace(FRY, heat="high")) == 2
    assert score("Tools/Equipment", FRY, replace(FRY, surface="electric stove")) == 3
    assert score("Visuals", FRY, replace(FRY, size="large")) == 3


def test_another_step_scores_zero_and_the_clip_itself_five() -> None:
    for category in CATEGORIES:
        assert score(category, WHISK, FRY) == 0
        assert score(category, WHISK, WHISK) == 5


@given(st.sampled_from(sorted(STEPS)), st.data())
def test_scores_are_symmetric_and_every_attribute_is_compared(step: str, data: st.DataObject) -> None:
    a = data.draw(st.sampled_from(BY_STEP[step]))
    b = data.draw(st.sampled_from(BY_STEP[step]))
    for category in CATEGORIES:
        forth, back = differences(category, a, b), differences(category, b, a)
        assert {d.reversed() for d in forth} == set(back)
        assert score(category, a, b) == score(category, b, a)
    same = all(not differences(c, a, b) for c in CATEGORIES)
    assert same == (a == b)
