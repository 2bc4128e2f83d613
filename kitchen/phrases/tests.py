"""The pool of the test texts: what the candidate does compared with the reference.

{x} is the value in the candidate, {y} the value in the reference; several values are joined by "and",
in {z} by "or". Every attribute has one phrasing
for each of three tones, so that a text keeps its tone; `SUBJECTS` head a text by category.
"""

TONES = 3

_WHO = ("the person ", "this cook ", "they ")

SUBJECTS: dict[str, tuple[str, ...]] = {
    "Ingredients": _WHO,
    "Tools/Equipment": _WHO,
    "Technique": _WHO,
    "Actions": _WHO,
    "Visuals": ("", "", "they "),
}

CHANGE: dict[str, tuple[str, str, str]] = {
    "main": ("uses {x} instead of {y}", "replaces {y} with {x}", "opt for {x} rather than {y}"),
    "has": ("adds {x}", "throws in {x} too", "sprinkle {x} over it"),
    "lacks": ("does not add {z}", "skips the {y}", "leave the {y} out"),
    "amount": (
        "uses {x} instead of {y}",
        "handles {x} and not {y}",
        "opt for {x} rather than {y}",
    ),
    "tool": ("uses {x} instead of {y}", "replaces {y} with {x}", "opt for {x} rather than {y}"),
    "vessel": (
        "keeps it {x} instead of {y}",
        "has it {x} and not {y}",
        "opt to have it {x} rather than {y}",
    ),
    "surface": (
        "stands at work {x} instead of {y}",
        "is busy {x} and not {y}",
        "opt to be {x} rather than {y}",
    ),
    "gloves": ("shows {x} instead of {y}", "replaces {y} with {x}", "opt for {x} rather than {y}"),
    "trim": (
        "uses a dish bearing {x} instead of {y}",
        "owns a dish marked by {x} and not {y}",
        "opt for {x} on the dish rather than {y}",
    ),
    "speed": (
        "moves {x} instead of {y}",
        "goes about it {x} and not {y}",
        "opt to move {x} rather than {y}",
    ),
    "motion": ("does it by {x} instead of {y}", "replaces {y} by {x}", "opt for {x} rather than {y}"),
    "hands": (
        "does it {x} instead of {y}",
        "goes about it {x} and not {y}",
        "opt to do it {x} rather than {y}",
    ),
    "manner": ("does it by {x} instead of {y}", "replaces {y} by {x}", "opt for {x} rather than {y}"),
    "heat": (
        "heats it {x} instead of {y}",
        "has it {x} and not {y}",
        "opt to heat it {x} rather than {y}",
    ),
    "subaction": ("takes time for {x}", "spends a moment {x} too", "fit in {x} besides"),
    "without": ("takes no time for {z}", "skips {y}", "leave out {y}"),
    "order": ("goes for {x} before {y}", "moves {x} ahead of {y}", "put {x} before {y}"),
    "colour": (
        "the food is {x} in colour instead of {y}",
        "its colour is {x} and not {y}",
        "end up with {x} food rather than {y}",
    ),
    "shade": (
        "it is {x} in tone instead of {y}",
        "it has a {x} tone and not a {y} one",
        "end up with a {x} tone rather than a {y} one",
    ),
    "texture": (
        "it is {x} instead of {y}",
        "the mass is {x} and not {y}",
        "end up with a {x} mass rather than a {y} one",
    ),
    "size": (
        "the pieces are {x} instead of {y}",
        "everything is {x} in size and not {y}",
        "end up with {x} pieces rather than {y} ones",
    ),
    "detail": ("it comes with {x}", "one can make out {x}", "end up with {x} on it"),
    "plain": ("it comes without {y}", "one can make out no {y}", "end up without {y}"),
}

REPEATED = ("opt for ", "end up with ")
"""Openings that a clause drops when the one before it opens the same way."""

TEMPLATES = (
    *(subject for pool in SUBJECTS.values() for subject in pool if subject),
    *(template for pool in CHANGE.values() for template in pool),
)
