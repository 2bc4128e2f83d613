"""How alike two clips are in each category, by heads, and as whole clips, by the cosine of their
embeddings.

A head is asked SIMILAR_QUESTION, as in DiffRank; its answer is log p(YES) - log p(NO), and
`verdict` says it in a word. A head of words compares a distance with the one below which nothing
differs.

Guarantees
- DiffRank is scored with the same log-odds of a pair
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from retrieval.vectors import unit
from stepdiff.app.cache import LRUCache
from stepdiff.app.pair.loading import Loaded, RunHead
from stepdiff.app.pair.worker import Job
from stepdiff.app.site import Site
from stepdiff_core.tasks.declining import verdict
from stepdiff_core.tasks.prompts import PRESETS
from stepdiff_core.tasks.testsets import CATEGORIES, Pair
from store.view import OK

if TYPE_CHECKING:
    from heads.methods.word_evidence import WordEvidence

MOST_KEPT = 20_000  # pairs whose log-odds are kept
PAIRS_A_BATCH = 4  # pairs between two looks at whether a job was cancelled
PRESET_CATEGORIES = {
    "tools": "Tools/Equipment",
    "technique": "Technique",
    "sanitary": "Technique",
    "larger": "Ingredients",
    "messy": "Technique",
    "mistake": None,
    "oil": "Ingredients",
    "healthier": "Ingredients",
}
"""preset -> the category that it asks about; None: no single one"""
assert PRESET_CATEGORIES.keys() == PRESETS.keys()


Odds = dict[str, float]  # category -> log-odds, of those that were computed
KeptOdds = LRUCache[tuple[RunHead, Pair], Odds]


def similarities(odds: Odds) -> list[dict[str, Any]]:
    """Return the log-odds of each category with their verdict."""
    return [
        {"category": name, "log_odds": value, "verdict": verdict(value)}
        for name, value in odds.items()
    ]


def by_words(evidence: "WordEvidence", pair: Pair) -> list[dict[str, Any]]:
    """Return the same as `stepdiff compare` with a head of words; nothing if it was fitted without
    --validation."""
    from stepdiff.comparison.models import Reader

    reader = Reader(evidence, evidence)
    categories = reader.categories if evidence.head.declines_below else ()
    values = reader.alike([(pair, category) for category in categories])
    return similarities(dict(zip(categories, values, strict=True)))


def odds(
    loaded: Loaded, kept: KeptOdds, pair: Pair, categories: Sequence[str] = CATEGORIES
) -> Odds:
    """Return the log-odds of a pair, at least in these categories; kept ones are not computed
    again."""
    computed = kept.get((loaded.head, pair)) or {}
    _keep(loaded, kept, [(pair, category) for category in categories if category not in computed])
    return kept.get((loaded.head, pair)) or {}


def score_pairs(
    loaded: Loaded, kept: KeptOdds, pairs: Sequence[Pair], category: str, job: Job
) -> None:
    """Keep the log-odds of some pairs in a category; progress is reported, and a cancelled job ends
    between batches."""
    missing = [pair for pair in pairs if category not in (kept.get((loaded.head, pair)) or {})]
    for start in range(0, len(missing), PAIRS_A_BATCH):
        job.send("progress", done=start, total=len(missing))
        job.check()
        _keep(loaded, kept, [(pair, category) for pair in missing[start : start + PAIRS_A_BATCH]])


def _keep(loaded: Loaded, kept: KeptOdds, queries: Sequence[tuple[Pair, str]]) -> None:
    """Compute and keep the log-odds of pairs in categories."""
    if queries:
        with loaded.computing():
            values = loaded.method.alike(queries)
        for (pair, category), value in zip(queries, values, strict=True):
            kept.put((loaded.head, pair), (kept.get((loaded.head, pair)) or {}) | {category: value})


def declines(log_odds: Odds, category: str | None) -> str:
    """Return why a difference that a head names in a category (None: in any) is doubtful, empty: it
    is not."""
    least = min(log_odds.values()) if category is None else log_odds[category]
    if verdict(least) != "alike":
        return ""
    return f"asked whether the clips are alike in {category or 'each category'}, the model says yes"


def cosines(site: Site, pair: Pair) -> list[dict[str, Any]]:
    """Return the cosine of the pair in every view that has one embedding a clip and both clips."""
    cosines = []
    rows = site.store.catalog("clips").rows(list(pair))
    for name in embedding_views(site):
        view = site.store.view("clips", name)
        if (view.status(rows) == OK).all():
            one, two = unit(view.read("embedding", rows, dtype="float32"))
            cosines.append({"view": name, "cosine": float(one @ two)})
    return cosines


def embedding_views(site: Site) -> list[str]:
    views = [(name, site.store.view("clips", name)) for name in sorted(site.store.views("clips"))]
    return [
        name
        for name, view in views
        if "embedding" in view.features and len(view.features["embedding"].shape) == 1
    ]
