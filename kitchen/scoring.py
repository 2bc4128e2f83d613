"""From ground truth to similarity scores, 5 (no difference that counts) down to 1.

One pure function a category, each following the published scoring matrix; where several rows of
the matrix apply the lowest score wins.

| score | Ingredients | Tools/Equipment | Technique | Actions | Visuals |
| --- | --- | --- | --- | --- | --- |
| 5 | nothing | colour of the stripe | nothing | nothing | nothing |
| 4 | main of the same kind; amount | 1 substitution | 1 manner | other order | small detail |
| 3 | 1-2 minor added or skipped | 2-3, or a replaced machine | 2-3 manners | 1 step | shade; size |
| 2 | 3+ minor; main of another kind | 4+ | heat; method; 4+ manners | 2-3 steps; order and main | colour; texture |
| 1 | - | - | - | 4+ steps added or skipped | - |

Guarantees
- scores are symmetric: score(a, b) == score(b, a);
- a clip scores 5 with itself in every category, and 0 with a clip of another step.
"""

from collections.abc import Callable

from kitchen.attributes import Attributes, Difference, differences
from kitchen.steps import kind_of

OTHER_STEP = 0
SAME = 5


def score(category: str, a: Attributes, b: Attributes) -> int:
    """Similarity of two clips in one category, 1..5; 0 where they show different steps."""
    if a.step != b.step:
        return OTHER_STEP
    return SCORERS[category](a, b)


def ingredients(a: Attributes, b: Attributes) -> int:
    """Main ingredient, its amount, and minor additions."""
    found = differences("Ingredients", a, b)
    minor = sum(d.attribute == "extras" for d in found)
    if minor >= 3 or _other_kind(a.step, found, "main"):
        return 2
    if minor:
        return 3
    return 4 if found else SAME


def tools(a: Attributes, b: Attributes) -> int:
    """Substitutions that serve the same purpose, counted; a machine or stove replaced."""
    counted = [d for d in differences("Tools/Equipment", a, b) if d.attribute != "trim"]
    replaced = _other_kind(a.step, counted, "tool") or _other_kind(a.step, counted, "surface")
    if len(counted) >= 4:
        return 2
    if len(counted) >= 2 or replaced:
        return 3
    return 4 if counted else SAME


def technique(a: Attributes, b: Attributes) -> int:
    """Method and heat weigh most; manners (speed, path, hands, form) are counted."""
    found = differences("Technique", a, b)
    heat = any(d.attribute == "heat" for d in found)
    if heat or _other_kind(a.step, found, "motion") or len(found) >= 4:
        return 2
    if len(found) >= 2:
        return 3
    return 4 if found else SAME


def actions(a: Attributes, b: Attributes) -> int:
    """Sub-actions added or skipped, counted; else their order."""
    found = differences("Actions", a, b)
    exchanged = sum(d.attribute == "subaction" for d in found)
    reordered = any(d.attribute == "order" for d in found)
    if exchanged >= 4:
        return 1
    if exchanged >= 2 or (reordered and _other_kind(a.step, differences("Ingredients", a, b), "main")):
        return 2
    if exchanged:
        return 3
    return 4 if reordered else SAME


def visuals(a: Attributes, b: Attributes) -> int:
    """Colour and texture weigh most, then shade and size, then small details."""
    changed = {d.attribute for d in differences("Visuals", a, b)}
    if changed & {"colour", "texture"}:
        return 2
    if changed & {"shade", "size"}:
        return 3
    return 4 if changed else SAME


def _other_kind(step: str, found: tuple[Difference, ...] | list[Difference], attribute: str) -> bool:
    return any(
        d.attribute == attribute and kind_of(step, attribute, d.old) != kind_of(step, attribute, d.new) for d in found
    )


SCORERS: dict[str, Callable[[Attributes, Attributes], int]] = {
    "Ingredients": ingredients,
    "Tools/Equipment": tools,
    "Technique": technique,
    "Actions": actions,
    "Visuals": visuals,
}
