"""The registry of methods and controls: values that heads.evaluate accepts, and facts that every
table states about a row.

heads.evaluate, heads.table, heads.report, heads.score, the comparison pages and the table of
methods in the docs read it. A class of your own states the same in attributes
(heads.methods.Method); its score record repeats them, so that no table has to import it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stepdiff_core.errors import StepDiffError

Regime = Literal["none", "s1", "supervised", "truth"]
PairEmbedding = Literal["average", "reference", "candidate"]
Control = Literal["none", "blind", "shuffled"]
ORDER: tuple[Regime, ...] = ("none", "s1", "supervised", "truth")
"""from the least supervision to the most: truth reads the true attributes of test clips"""
ENCODER = "contrastive head"
PAIRS = " trained on pairs"
"""prefix of the encoder in the provenance of a view that a head wrote, and what follows if paired
QA trained it too"""
CHANGED = {"blind": "control: no video", "shuffled": "control: another video"}
"""value of --control, which makes a control of a model -> its name"""


@dataclass(frozen=True)
class Registered:
    """A method that heads.evaluate accepts."""

    name: str
    """value of --method"""
    title: str = ""
    """its name in tables; empty: the value of --method"""
    regime: Regime | None = None
    """its training data; None: as its recipe or the encoder of its view states"""
    control: bool = False
    """whether it shows how far a task can be solved without understanding a difference"""
    options: tuple[str, ...] = ()
    """options of heads.evaluate that not every method reads"""
    store: bool = True
    """whether it reads a feature store"""


_LM = ("control", "ask_similar")
_HEAD = ("head", *_LM, "allow_seen")
_PUBLIC = ("view", "weights", *_LM)
_BUILT_IN = (
    Registered("video-lm", options=_HEAD),
    Registered("stepdiff", options=_HEAD),
    Registered("word-evidence", "Word evidence", "s1", options=("head", "allow_seen")),
    Registered("vlemb", "VLEmb", options=("view", "pair_embedding", "allow_seen")),
    Registered("llava", "VCLM", options=_PUBLIC),
    Registered("idefics", "Interleaved", options=_PUBLIC),
    Registered("vlm", "VLM", options=_PUBLIC),
    Registered(
        "socratic",
        "Socratic",
        options=("texts", "kind", "language_model", "precision", *_LM),
        store=False,
    ),
    Registered(
        "captions-cosine", "cosine of texts", options=("weights", "texts", "kind"), store=False
    ),
    Registered("random", "random scores", "none", True, store=False),
    Registered("step-oracle", "knows the step only", "none", True),
    Registered("rarest", "rarest clips", "none", True),
    Registered("medoid", "one caption a category", "s1", True, ("texts",)),
    Registered("shuffled-captions", "captions of other rows", None, True, ("texts",)),
)
REGISTRY: dict[str, Registered] = {method.name: method for method in _BUILT_IN}
"""value of --method -> the methods of this package"""
PLUGIN = Registered("a plug-in", options=("view",))
"""options that every class of another package reads"""


def stated(kind: type, name: str) -> dict[str, Any]:
    """Return the facts that the class of a plug-in states in its attributes, for its score record.
    StepDiffError: an attribute has another type."""
    values = {
        field: getattr(kind, field, getattr(PLUGIN, field))
        for field in ("title", "regime", "control")
    }
    title, regime, control = values.values()
    if not isinstance(title, str) or regime not in (None, *ORDER) or not isinstance(control, bool):
        raise StepDiffError(
            f"--method {name}: its class states {values}; title is text, regime None or one of "
            f"{', '.join(ORDER)}, and control True or False"
        )
    return values


def section(record: Any, name: str) -> dict[str, Any]:
    """Return a part of a score record, {} if it has none of that form."""
    part = record.get(name) if isinstance(record, Mapping) else None
    return part if isinstance(part, dict) else {}


def registered(record: Any) -> Registered:
    """Return the method of a score record."""
    name = str(section(record, "options").get("method") or "")
    if name in REGISTRY:
        return REGISTRY[name]
    attributes = section(section(record, "disclosed"), "registered")
    title, regime = attributes.get("title"), attributes.get("regime")
    valid = regime if regime in ORDER else None
    return Registered(
        name, title if isinstance(title, str) else "", valid, attributes.get("control") is True
    )


def is_control(record: Any) -> bool:
    """Return whether a score record is of a control: such a method, or a model without the right
    video."""
    return section(record, "options").get("control") in CHANGED or registered(record).control


def regime_of(record: Any) -> Regime | None:
    """Return the regime of a score record's method, None if it is not recorded."""
    method, disclosed = registered(record), section(record, "disclosed")
    if method.name == "vlemb":
        encoder = str(disclosed.get("encoder", ENCODER + PAIRS))
        return None if PAIRS in encoder else "s1" if encoder.startswith(ENCODER) else "none"
    recorded = section(disclosed, "recipe").get("regime")
    return method.regime or (recorded if recorded in ORDER else None)


def regime_words(regime: str | None) -> str:
    """Return the cell of a regime in a table: – for a method that is not trained, blank for an
    unknown regime."""
    return {None: "", "none": "–"}.get(regime, str(regime))


def title_of(record: Mapping[str, Any]) -> str:
    """Return the name of a row of a table. KeyError: the record is of another version."""
    method, options = registered(record), record["options"]
    view, source = options.get("view"), options.get("head") or options.get("texts")
    if method.control:
        return f"control: {method.title or method.name}" + (f" ({source})" if source else "")
    if method.name not in REGISTRY:
        return (method.title or method.name) + (f" ({view})" if view else "")
    if method.name == "vlemb":
        pair = options.get("pair_embedding", "average")
        return f"{method.title} ({view}" + (")" if pair == "average" else f", {pair} only)")
    name = method.title or record["disclosed"]["recipe"]["system"]
    source = (
        options["head"] or options.get("weights") or options.get("kind") or options.get("texts")
    )
    control = options["control"]
    return f"{name} ({source})" + (f", {CHANGED[control]}" if control in CHANGED else "")
