"""What is true of one clip, and how two clips of a step differ.

Guarantees
- two clips of one step differ exactly in what `differences` lists, category by category;
- `differences(a, b)` and `differences(b, a)` hold the same differences with old and new exchanged.
"""

from dataclasses import asdict, dataclass, fields

from kitchen.steps import CATEGORIES, MAIN

CATEGORY_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "Ingredients": ("main", "extras", "amount"),
    "Tools/Equipment": ("tool", "vessel", "surface", "gloves", "trim"),
    "Technique": ("speed", "motion", "hands", "manner", "heat"),
    "Actions": ("sequence",),
    "Visuals": ("colour", "shade", "texture", "size", "detail"),
}

PLAIN = tuple(
    name for category in CATEGORIES for name in CATEGORY_ATTRIBUTES[category] if name not in ("extras", "sequence")
)
"""Attributes that hold one value each."""


@dataclass(frozen=True)
class Attributes:
    """One performance of one step. None: the step has no such attribute."""

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
    """Sub-actions in order, the step's own action standing as `steps.MAIN`."""
    colour: str
    shade: str
    texture: str | None
    size: str | None
    detail: str

    def as_dict(self) -> dict[str, object]:
        """Fields as JSON knows them (tuples become lists)."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, row: dict[str, object]) -> "Attributes":
        """Inverse of `as_dict`; other keys of `row` are ignored."""
        values = {field.name: row[field.name] for field in fields(cls)}
        for name in ("extras", "sequence"):
            values[name] = tuple(values[name])  # type: ignore[arg-type]
        return cls(**values)  # type: ignore[arg-type]

    def subactions(self) -> frozenset[str]:
        """Sub-actions in addition to the step's own action."""
        return frozenset(self.sequence) - {MAIN}


@dataclass(frozen=True)
class Difference:
    """One thing in which a candidate differs from its reference.

    Plain attributes: old and new value. Something added: old is "". Something skipped: new is "".
    Another order of the same sub-actions: attribute `order`, old and new are what comes first of
    the two that changed places, found at the first place where the sequences differ.
    """

    attribute: str
    old: str
    new: str

    def reversed(self) -> "Difference":
        """The same difference seen from the candidate."""
        return Difference(self.attribute, self.new, self.old)


def differences(category: str, a: Attributes, b: Attributes) -> tuple[Difference, ...]:
    """All that makes candidate `b` differ from reference `a` of the same step in one category."""
    if a.step != b.step:
        raise ValueError(f"differences: {a.step!r} and {b.step!r} are not the same step")
    found: list[Difference] = []
    for name in CATEGORY_ATTRIBUTES[category]:
        if name == "extras":
            found += _exchanged("extras", frozenset(a.extras), frozenset(b.extras))
        elif name == "sequence":
            found += _sequence(a, b)
        elif getattr(a, name) != getattr(b, name):
            found.append(Difference(name, getattr(a, name), getattr(b, name)))
    return tuple(found)


def _exchanged(name: str, old: frozenset[str], new: frozenset[str]) -> list[Difference]:
    added = [Difference(name, "", value) for value in sorted(new - old)]
    return added + [Difference(name, value, "") for value in sorted(old - new)]


def _sequence(a: Attributes, b: Attributes) -> list[Difference]:
    found = _exchanged("subaction", a.subactions(), b.subactions())
    shared_a = [x for x in a.sequence if x in b.sequence]
    shared_b = [x for x in b.sequence if x in a.sequence]
    if shared_a != shared_b:
        old, new = next((x, y) for x, y in zip(shared_a, shared_b, strict=True) if x != y)
        found.append(Difference("order", old, new))
    return found
