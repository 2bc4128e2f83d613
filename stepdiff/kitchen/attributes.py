"""The attributes of one clip, how two clips of a step differ, and how similar they are.

Similarity in a category is 5 (no difference that counts) down to 1, by the published scoring
matrix; if several rows of the matrix apply, the lowest score counts.

| score | Ingredients | Tools/Equipment | Technique | Actions | Visuals |
| --- | --- | --- | --- | --- | --- |
| 5 | nothing | colour of the stripe | nothing | nothing | nothing |
| 4 | main of the same kind; amount | 1 substitution | 1 manner | other order | small detail |
| 3 | 1-2 minor added or skipped | 2-3, or a replaced machine | 2-3 manners | 1 step | shade; size |
| 2 | 3+ minor; main of another kind | 4+ | heat; method; 4+ manners | 2-3 steps; order and main |
colour; texture | | 1 | - | - | - | 4+ steps added or skipped | - |

Guarantees
- two clips of one step differ exactly in what `differences` lists, category by category
- scores are symmetric; a clip scores 5 with itself in every category, and 0 with a clip of another
  step
"""

from collections import Counter
from dataclasses import dataclass, fields

from stepdiff.kitchen.steps import MAIN, kind_of

OTHER_STEP, SAME = 0, 5

CATEGORY_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "Ingredients": ("main", "extras", "amount"),
    "Tools/Equipment": ("tool", "vessel", "surface", "gloves", "trim"),
    "Technique": ("speed", "motion", "hands", "manner", "heat"),
    "Actions": ("sequence",),
    "Visuals": ("colour", "shade", "texture", "size", "detail"),
}


@dataclass(frozen=True)
class Attributes:
    """One performance of one step; an attribute that the step does not have is None."""

    step: str
    main: str
    extras: tuple[str, ...]
    """Minor ingredients, sorted."""
    amount: str
    tool: str
    vessel: str
    surface: str
    gloves: str
    trim: str
    """Colour of the stripe around the vessel."""
    speed: str
    motion: str
    hands: str
    manner: str | None
    heat: str | None
    sequence: tuple[str, ...]
    """Sub-actions in order; `steps.MAIN` is the step's own action."""
    colour: str
    shade: str
    texture: str | None
    size: str | None
    detail: str

    @classmethod
    def from_dict(cls, row: dict[str, object]) -> "Attributes":
        """Return the attributes of a row of attributes.jsonl; other keys of `row` are ignored."""
        values = {field.name: row[field.name] for field in fields(cls)}
        for name in ("extras", "sequence"):
            values[name] = tuple(values[name])  # type: ignore[arg-type]
        return cls(**values)  # type: ignore[arg-type]

    def subactions(self) -> frozenset[str]:
        """Return the sub-actions without the step's own action."""
        return frozenset(self.sequence) - {MAIN}


@dataclass(frozen=True)
class Difference:
    """One thing in which a candidate differs from its reference.

    Plain attributes: old and new value. Something added: old is "". Something skipped: new is "".
    Another order of the same sub-actions: attribute `order`; old and new are the sub-actions at the
    first place where the sequences differ.
    """

    attribute: str
    old: str
    new: str

    def reversed(self) -> "Difference":
        """Return the same difference with reference and candidate exchanged."""
        return Difference(self.attribute, self.new, self.old)


def differences(category: str, a: Attributes, b: Attributes) -> tuple[Difference, ...]:
    """Return how candidate `b` differs from reference `a` of the same step in one category."""
    if a.step != b.step:
        raise ValueError(f"differences: {a.step!r} and {b.step!r} are not the same step")
    changes: list[Difference] = []
    for name in CATEGORY_ATTRIBUTES[category]:
        if name == "extras":
            changes += _exchanged("extras", frozenset(a.extras), frozenset(b.extras))
        elif name == "sequence":
            changes += _exchanged("subaction", a.subactions(), b.subactions())
            shared_a, shared_b = (
                [x for x in one.sequence if x in other.sequence] for one, other in ((a, b), (b, a))
            )
            order = [
                Difference("order", x, y) for x, y in zip(shared_a, shared_b, strict=True) if x != y
            ]
            changes += order[:1]
        elif getattr(a, name) != getattr(b, name):
            changes.append(Difference(name, getattr(a, name), getattr(b, name)))
    return tuple(changes)


def _exchanged(name: str, old: frozenset[str], new: frozenset[str]) -> list[Difference]:
    added = [Difference(name, "", value) for value in sorted(new - old)]
    return added + [Difference(name, value, "") for value in sorted(old - new)]


def score(category: str, a: Attributes, b: Attributes) -> int:
    """Return the similarity of two clips in one category: 1 to 5, or 0 if they show different
    steps."""
    if a.step != b.step:
        return OTHER_STEP
    count = Counter(d.attribute for d in differences(category, a, b))
    changed, minor, steps = count.total() - count["trim"], count["extras"], count["subaction"]
    reordered = "order" in count
    if category == "Ingredients":
        rows = {2: minor >= 3 or _replaced("main", a, b), 3: minor >= 1}
    elif category == "Tools/Equipment":
        rows = {
            2: changed >= 4,
            3: changed >= 2 or _replaced("tool", a, b) or _replaced("surface", a, b),
        }
    elif category == "Technique":
        rows = {2: "heat" in count or _replaced("motion", a, b) or changed >= 4, 3: changed >= 2}
    elif category == "Actions":
        rows = {
            1: steps >= 4,
            2: steps >= 2 or (reordered and _replaced("main", a, b)),
            3: steps >= 1,
        }
    else:
        rows = {2: count["colour"] + count["texture"] > 0, 3: count["shade"] + count["size"] > 0}
    return next((level for level, applies in rows.items() if applies), 4 if changed else SAME)


def _replaced(attribute: str, a: Attributes, b: Attributes) -> bool:
    """Whether the attribute takes a value of another kind."""
    return kind_of(a.step, attribute, getattr(a, attribute)) != kind_of(
        b.step, attribute, getattr(b, attribute)
    )
