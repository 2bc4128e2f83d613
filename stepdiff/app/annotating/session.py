"""Who sends a request: the token in a cookie, which a personal link sets.

Guarantees
- the cookie is HttpOnly and SameSite=Strict, and Secure where the public URL is https
- a revoked or replaced token opens nothing
- too many requests of a person, or guesses of an address, are 429, and others are not concerned
"""

from fastapi import Request
from fastapi.responses import Response

from stepdiff.app.annotating.collection import people
from stepdiff.app.annotating.collection.people import Person, Role
from stepdiff.app.annotating.service import Annotating
from stepdiff.app.site import RefusedError, Site

PATH = "/annotate"
_SECONDS = 180 * 24 * 3600
_LONGEST = 100  # characters of a token


def link(token: str, site: str = "") -> str:
    """Return the address that signs in by a token, on the server at the address `site`."""
    return f"{site.rstrip('/')}{PATH}/as/{token}"


def cookie_of(role: str) -> str:
    """Return the name of a role's cookie: one browser may have both."""
    return f"stepdiff-{role}"


def sign_in(response: Response, request: Request, token: str, role: str) -> None:
    """Set the cookie of a token."""
    response.set_cookie(
        cookie_of(role),
        token,
        max_age=_SECONDS,
        path=PATH,
        secure=(_site(request).public_url or "").startswith("https:"),
        httponly=True,
        samesite="strict",
    )


def sign_out(response: Response, role: Role) -> None:
    """Delete the cookie."""
    response.delete_cookie(cookie_of(role), path=PATH, httponly=True, samesite="strict")


def found(annotating: Annotating, token: str, request: Request) -> Person | None:
    """Return whose token it is. RefusedError: too many requests of this person, or of this address without one."""
    person = None
    if 0 < len(token) < _LONGEST and token.isascii():
        with annotating.database.read() as connection:
            person = people.signed_in(connection, token)
    if person is None:
        count_address(annotating, request)
    else:
        _pass(annotating.persons.take(str(person.id)))
    return person


def current(annotating: Annotating, request: Request, role: Role = "annotator") -> Person | None:
    """Return who sends a request, None for nobody. RefusedError as `found`."""
    person = found(annotating, request.cookies.get(cookie_of(role), ""), request)
    return person if person is not None and person.role == role else None


def required(annotating: Annotating, request: Request, role: Role = "annotator") -> Person:
    """Return who sends a request. RefusedError: nobody who may, or too many requests."""
    person = current(annotating, request, role)
    if person is None:
        whose = "personal link" if role == "annotator" else "admin link"
        raise RefusedError(f"open your {whose} again, or ask for a new one", 401)
    return person


def _pass(seconds: int) -> None:
    if seconds:
        raise RefusedError(f"too many requests: wait {seconds} s", 429, seconds)


def count_address(annotating: Annotating, request: Request) -> None:
    """Count a request of somebody who is not signed in. RefusedError: too many of this address."""
    address = request.client.host if request.client else ""
    if _site(request).trusts(address):  # each proxy appends the address that it sees, after those that it was sent
        address = ",".join(request.headers.getlist("x-forwarded-for")).rpartition(",")[2].strip() or address
    _pass(annotating.addresses.take(address))


def _site(request: Request) -> Site:
    site: Site = request.app.state.site
    return site
