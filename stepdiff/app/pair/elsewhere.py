"""The same difference elsewhere, at /pair/elsewhere: pairs that differ as two clips, two groups or a sentence do.

The first head of words compares them; without one, the first view with one embedding a clip.
"""

from dataclasses import dataclass

from heads.differences import DifferencesOptions
from heads.evidence.differences import Same, find
from retrieval.differences import Sample
from stepdiff.app.pages import Page
from stepdiff.app.pair.alike import embedding_views
from stepdiff.app.pair.loading import Runs
from stepdiff.app.site import Site
from stepdiff.common.errors import StepDiffError
from stepdiff.tasks.testsets import CATEGORIES

MOST_LISTED = 12
"""pairs in a list"""


@dataclass(frozen=True)
class ElsewherePage(Page):
    """A difference that is looked for, and the pairs that have it."""

    text: str
    reference: tuple[str, ...]
    candidate: tuple[str, ...]
    category: str
    categories: list[str]
    same: Same | None
    problem: str
    """why there are no pairs; empty: there are some"""


def elsewhere_page(site: Site, runs: Runs, sample: Sample, wanted: DifferencesOptions) -> ElsewherePage:
    """Return the page of a search. UnknownError: the store has no such clip."""
    site.clips([*wanted.reference, *wanted.candidate])
    same, problem, words, views = None, "", runs.words(), embedding_views(site)
    try:
        if not words and not views:
            raise StepDiffError("no head of words, and no view with one embedding a clip: start the server with --runs")
        same = find(
            site.store, runs.evidence(words[0]) if words else site.store.view("clips", views[0]), wanted, sample
        )
    except StepDiffError as error:
        problem = str(error)
    about = wanted.text, wanted.reference, wanted.candidate, same.category if same else wanted.category
    return ElsewherePage("The same difference elsewhere", *about, list(CATEGORIES), same, problem)
