"""A pair of clips, at /pair."""

from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.pages import Page, page
from app.site import ClipRecord, Site


@dataclass(frozen=True)
class PairPage(Page):
    """Two clips."""

    reference: ClipRecord
    candidate: ClipRecord


def router(site: Site) -> APIRouter:
    """Return the routes of pairs."""
    routes = APIRouter(tags=["pair"])

    @routes.get("/pair")
    def pair(request: Request, reference: str, candidate: str) -> Response:
        """Two clips in step, what differs between them, and questions about them."""
        first, second = site.clips([reference, candidate])
        return page(request, "pair.html", PairPage(f"{reference} and {candidate}", first, second))

    return routes
