"""The twelve steps of the kitchen, the values of every attribute, and the recipes.

Values are plain words ("wooden spoon"). `kind_of` groups them: a substitution within a kind is a
small difference, one across kinds a large one.
"""

from dataclasses import dataclass

MAIN = "main action"
"""The step's own action in a sequence of sub-actions."""

_OF_ALL_STEPS: dict[str, tuple[str, ...]] = {
    "amount": ("small", "large"),
    "gloves": ("bare hands", "rubber gloves", "oven mitts"),
    "trim": ("red", "blue"),
    "speed": ("slow", "fast"),
    "hands": ("one hand", "both hands"),
    "shade": ("light", "dark"),
}
SIZES = ("small", "large")
HEATS = ("low", "high")
COUNTERS = ("wooden table", "marble counter", "steel counter")
STOVES = ("gas stove", "electric stove")
BOWLS = ("glass bowl", "metal bowl", "ceramic bowl")
BOARDS = ("wooden board", "plastic board", "slate board")
PANS = ("steel pan", "black pan", "copper pan")
POTS = ("steel pot", "enamel pot", "clay pot")
PLATES = ("ceramic plate", "wooden plate", "metal tray")

SAVOURY = ("herbs", "peppercorns", "chilli flakes", "garlic")
SWEET = ("chocolate chips", "blueberries", "nuts", "cherries")


@dataclass(frozen=True)
class Step:
    """One step of cooking and the values of its clips.

    The last `motion` and the last `main` are of another kind than the two before them.
    """

    name: str
    scene: str
    main: tuple[str, str, str]
    extras: tuple[str, ...]
    tool: tuple[str, ...]
    vessel: tuple[str, ...]
    surface: tuple[str, ...]
    motion: tuple[str, str, str]
    subactions: tuple[str, ...]
    colour: tuple[str, ...]
    detail: tuple[str, str]
    manner: tuple[str, ...] = ()
    heat: tuple[str, ...] = ()
    texture: tuple[str, ...] = ()
    size: tuple[str, ...] = ()

    def options(self, attribute: str) -> tuple[str, ...]:
        """Return the values of one plain attribute (not extras, not sequence); empty if the step
        does not have it."""
        return _OF_ALL_STEPS.get(attribute) or getattr(self, attribute)


STIR = ("in circles", "back and forth", "folding")

_STEPS = (
    Step(
        "whisk the eggs", "mix",
        main=("hen eggs", "quail eggs", "tofu"), extras=SAVOURY,
        tool=("whisk", "fork", "electric mixer"), vessel=BOWLS, surface=COUNTERS, motion=STIR,
        manner=("level", "tilted"),
        subactions=("wipe", "cover", "taste", "timer", "rinse"),
        colour=("yellow", "white"), texture=("runny", "frothy"), detail=("plain", "streaks"),
    ),
    Step(
        "mix the batter", "mix",
        main=("wheat flour", "oat flour", "bananas"), extras=SWEET,
        tool=("wooden spoon", "rubber spatula", "electric mixer"), vessel=BOWLS, surface=COUNTERS,
        motion=STIR, manner=("level", "tilted"),
        subactions=("wipe", "cover", "taste", "timer", "read"),
        colour=("white", "brown"), texture=("runny", "lumpy"), detail=("plain", "bubbles"),
    ),
    Step(
        "toss the salad", "salad",
        main=("lettuce", "cabbage", "cauliflower"), extras=SAVOURY,
        tool=("tongs", "fork", "wooden spoon"), vessel=BOWLS, surface=COUNTERS, motion=STIR,
        manner=("level", "tilted"),
        subactions=("wipe", "cover", "taste", "rinse", "read"),
        colour=("green", "purple"), size=SIZES, detail=("plain", "glossy dressing"),
    ),
    Step(
        "chop the vegetables", "cut",
        main=("bell pepper", "chilli", "onion"), extras=SAVOURY,
        tool=("chef's knife", "cleaver", "scissors"), vessel=BOARDS, surface=COUNTERS,
        motion=("straight down", "rocking", "sawing"), manner=("slices", "dice"),
        subactions=("wipe", "cover", "rinse", "timer", "read"),
        colour=("yellow", "red"), size=SIZES, detail=("plain", "stems left on"),
    ),
    Step(
        "slice the fruit", "cut",
        main=("apple", "pear", "grapes"), extras=SWEET,
        tool=("chef's knife", "cleaver", "wheel cutter"), vessel=BOARDS, surface=COUNTERS,
        motion=("straight down", "rocking", "sawing"), manner=("slices", "dice"),
        subactions=("wipe", "cover", "rinse", "taste", "read"),
        colour=("red", "green"), size=SIZES, detail=("plain", "seeds left in"),
    ),
    Step(
        "stir-fry the vegetables", "fry",
        main=("carrot", "sweet potato", "cauliflower"), extras=SAVOURY,
        tool=("wooden spoon", "turner", "chopsticks"), vessel=PANS, surface=STOVES,
        motion=("in circles", "back and forth", "tossing"), heat=HEATS,
        subactions=("wipe", "cover", "taste", "thermometer", "timer"),
        colour=("orange", "purple"), size=SIZES, detail=("plain", "charred edges"),
    ),
    Step(
        "simmer the sauce", "simmer",
        main=("tomato", "bell pepper", "apple"), extras=SAVOURY,
        tool=("wooden spoon", "ladle", "whisk"), vessel=POTS, surface=STOVES,
        motion=STIR, heat=HEATS,
        subactions=("wipe", "cover", "taste", "thermometer", "read"),
        colour=("red", "green"), texture=("runny", "lumpy"), detail=("plain", "bubbles"),
    ),
    Step(
        "flip the pancake", "flip",
        main=("wheat flour", "oat flour", "bananas"), extras=SWEET,
        tool=("turner", "tongs", "wooden spoon"), vessel=PANS, surface=STOVES,
        motion=("low turn", "high flip", "pan toss"), heat=HEATS,
        subactions=("wipe", "cover", "timer", "thermometer", "read"),
        colour=("yellow", "brown"), size=SIZES, detail=("plain", "crisp edges"),
    ),
    Step(
        "pour the batter", "pour",
        main=("wheat flour", "oat flour", "bananas"), extras=SWEET,
        tool=("ladle", "jug", "measuring cup"), vessel=PANS, surface=STOVES,
        motion=("steady stream", "circling stream", "dollops"), heat=HEATS,
        manner=("from low", "from high"),
        subactions=("wipe", "taste", "timer", "thermometer", "read"),
        colour=("white", "brown"), texture=("runny", "lumpy"), detail=("plain", "bubbles"),
    ),
    Step(
        "spread the topping", "spread",
        main=("butter", "cream cheese", "jam"), extras=SWEET,
        tool=("table knife", "metal spoon", "rubber spatula"), vessel=PLATES, surface=COUNTERS,
        motion=("long strokes", "in circles", "dabbing"), manner=("thin layer", "thick layer"),
        subactions=("wipe", "cover", "taste", "timer", "read"),
        colour=("yellow", "pink"), texture=("smooth", "lumpy"), detail=("plain", "toasted crust"),
    ),
    Step(
        "roll out the dough", "roll",
        main=("wheat flour", "oat flour", "potatoes"), extras=SWEET,
        tool=("wooden rolling pin", "marble rolling pin", "glass bottle"), vessel=BOARDS,
        surface=COUNTERS, motion=("forwards and back", "side to side", "pounding"),
        subactions=("wipe", "cover", "timer", "rinse", "read"),
        colour=("white", "brown"), size=SIZES, detail=("plain", "cracked edges"),
    ),
    Step(
        "grate the topping", "grate",
        main=("cheddar", "gouda", "carrot"), extras=SAVOURY,
        tool=("box grater", "flat grater", "electric grater"), vessel=BOWLS, surface=COUNTERS,
        motion=("up and down", "in circles", "moving the grater"), manner=("upright", "slanted"),
        subactions=("wipe", "cover", "taste", "rinse", "timer"),
        colour=("orange", "white"), size=SIZES, detail=("plain", "rind left on"),
    ),
)  # fmt: skip

STEPS = {step.name: step for step in _STEPS}

_KINDS = {
    "electric mixer": "machine", "electric grater": "machine",
    "gas stove": "gas", "electric stove": "electric",
    "folding": "lift", "sawing": "saw", "tossing": "toss", "pan toss": "toss",
    "dollops": "drop", "dabbing": "dab", "pounding": "pound", "moving the grater": "move",
}  # fmt: skip


def kind_of(step: str, attribute: str, value: str) -> str:
    """Return the kind of a value; values of one kind can replace each other."""
    if attribute == "main" and value == STEPS[step].main[2]:
        return "other"
    return _KINDS.get(value, "") if attribute != "main" else ""


ACTIVITIES: dict[str, tuple[str, ...]] = {
    "Make Pancakes": (
        "whisk the eggs", "mix the batter", "pour the batter", "flip the pancake",
        "slice the fruit", "spread the topping",
    ),
    "Make Pizza": (
        "mix the batter", "roll out the dough", "simmer the sauce", "chop the vegetables",
        "grate the topping", "toss the salad",
    ),
    "Make Savoury Pancakes": (
        "whisk the eggs", "chop the vegetables", "stir-fry the vegetables", "grate the topping",
        "flip the pancake", "toss the salad",
    ),
    "Make a Fruit Tart": (
        "whisk the eggs", "roll out the dough", "slice the fruit", "pour the batter",
        "simmer the sauce", "spread the topping",
    ),
    "Make Dinner Crepes": (
        "pour the batter", "flip the pancake", "stir-fry the vegetables", "simmer the sauce",
        "grate the topping", "spread the topping",
    ),
    "Make a Picnic Lunch": (
        "chop the vegetables", "slice the fruit", "toss the salad", "stir-fry the vegetables",
        "roll out the dough", "mix the batter",
    ),
}  # fmt: skip

UNSEEN_ACTIVITIES = ("Make a Picnic Lunch",)
"""Recipes of no training video (other recipes train their steps)."""
