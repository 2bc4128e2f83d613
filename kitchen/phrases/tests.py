"""The pool of the test texts: what the candidate does compared with the reference.

{x} is the value in the candidate, {y} the value in the reference. Every phrasing of an attribute
stands at one place of all tuples, so a text keeps one tone; `SUBJECTS` head them by category.
"""

SUBJECTS: dict[str, tuple[str, ...]] = {
    "Ingredients": ("the person ", "this cook ", "whoever is cooking "),
    "Tools/Equipment": ("the person ", "this cook ", "whoever is cooking "),
    "Technique": ("the person ", "this cook ", "whoever is cooking "),
    "Actions": ("the person ", "this cook ", "whoever is cooking "),
    "Visuals": ("", "", ""),
}

CHANGE: dict[str, tuple[str, str, str]] = {
    "main": ("uses {x} instead of {y}", "replaces {y} with {x}", "opts for {x} rather than {y}"),
    "has": ("adds {x}", "throws {x} in too", "opts for {x} on top"),
    "lacks": ("does not add {y}", "skips the {y}", "opts for no {y}"),
    "amount": (
        "uses {x} instead of {y}",
        "works on {x} where it was {y}",
        "opts for {x} rather than {y}",
    ),
    "tool": ("uses {x} instead of {y}", "replaces {y} with {x}", "opts for {x} rather than {y}"),
    "vessel": (
        "keeps it {x} instead of {y}",
        "has it {x}, not {y}",
        "opts for having it {x} rather than {y}",
    ),
    "surface": (
        "stands at work {x} instead of {y}",
        "is busy {x}, not {y}",
        "opts for working {x} rather than {y}",
    ),
    "gloves": (
        "shows {x} instead of {y}",
        "replaces {y} with {x}",
        "opts for {x} rather than {y}",
    ),
    "trim": (
        "uses a dish that bears {x} instead of {y}",
        "replaces the dish bearing {y} with one bearing {x}",
        "opts for {x} on the dish rather than {y}",
    ),
    "speed": (
        "moves {x} instead of {y}",
        "goes about it {x}, not {y}",
        "opts for working {x} rather than {y}",
    ),
    "motion": (
        "does it by {x} instead of {y}",
        "replaces {y} by {x}",
        "opts for {x} rather than {y}",
    ),
    "hands": (
        "does it {x} instead of {y}",
        "goes about it {x}, not {y}",
        "opts for working {x} rather than {y}",
    ),
    "manner": (
        "does it by {x} instead of {y}",
        "replaces {y} by {x}",
        "opts for {x} rather than {y}",
    ),
    "heat": (
        "heats it {x} instead of {y}",
        "has it {x}, not {y}",
        "opts for heating {x} rather than {y}",
    ),
    "subaction": ("adds {x} to the routine", "spends time {x} too", "opts for {x} besides"),
    "without": ("does not spend time {y}", "skips {y}", "opts for no {y}"),
    "order": (
        "starts with {x} instead of {y}",
        "moves {x} ahead of {y}",
        "opts for {x} before {y}",
    ),
    "colour": (
        "the food is {x} in colour instead of {y}",
        "what was {y} has turned {x}",
        "one sees {x} food rather than {y}",
    ),
    "shade": (
        "it is {x} in tone instead of {y}",
        "the {y} tone has become {x}",
        "one sees a {x} tone rather than {y}",
    ),
    "texture": (
        "it is {x} instead of {y}",
        "the {y} mass has become {x}",
        "one sees a {x} mass rather than {y}",
    ),
    "size": (
        "the pieces are {x} instead of {y}",
        "the {y} pieces have become {x}",
        "one sees {x} pieces rather than {y}",
    ),
    "detail": ("it comes with {x}", "{x} can be made out", "one sees {x} appear"),
    "plain": ("it comes without {y}", "no {y} can be made out", "one sees {y} no more"),
}

TEMPLATES = (
    *(subject for pool in SUBJECTS.values() for subject in pool if subject),
    *(template for pool in CHANGE.values() for template in pool),
)
