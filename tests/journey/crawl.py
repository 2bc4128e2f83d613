"""A walk over the links, parts, forms and JSON of the pages."""

import json
import re
from collections import Counter, deque
from collections.abc import Iterable
from html import unescape
from typing import Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

import httpx

MOST = 4
"""addresses of one kind that are opened: they differ in names of clips, numbers, and values of the
query"""


def kind(address: str) -> str:
    """Return what an address shows: its path without names of clips and numbers, and the names of
    its query."""
    place = urlsplit(address)
    path = re.sub(r"(?<=/)[^/]*\d[^/]*", "*", place.path)
    return f"{path}?{','.join(sorted(dict(parse_qsl(place.query))))}"


def found(pattern: str, html: str) -> list[str]:
    return [unescape(value) for value in re.findall(pattern, html)]


def forms(html: str) -> list[str]:
    """Return the addresses that the forms of a page open: with the values of the page, and with
    each option instead."""
    addresses = []
    for action, body in re.findall(
        r'<form[^>]* action="([^"]*)"[^>]*>(.*?)</form>', html, re.DOTALL
    ):
        inputs = re.findall(
            r'<input(?![^>]*type="checkbox")[^>]* name="([^"]*)"(?:[^>]* value="([^"]*)")?', body
        )
        values = {name: [unescape(value)] for name, value in inputs}
        for name, inner in re.findall(
            r'<select[^>]* name="([^"]*)"[^>]*>(.*?)</select>', body, re.DOTALL
        ):
            options = re.findall(r'<option(?: (value)="([^"]*)")?( selected)?>([^<]*)', inner)
            options.sort(key=lambda option: not option[2])  # the selected one first
            values[name] = [
                unescape(value if has_value else text) for has_value, value, _, text in options
            ]
        given = {name: first for name, (first, *_) in values.items()}
        chosen = [
            given,
            *(given | {name: value} for name, others in values.items() for value in others[1:]),
        ]
        addresses += [f"{unescape(action)}?{urlencode(fields)}" for fields in chosen]
    return addresses


class Crawl:
    """Opens pages with one client. `opened`: addresses; `pages`: the first of each path and kind of
    JSON; `problems`: what should not be.
    """

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._kinds: Counter[str] = Counter()
        self.opened: set[str] = set()
        self.pages: dict[tuple[str, ...], str] = {}
        self.problems: list[str] = []

    def follow(self, starts: Iterable[str], clicks: int) -> None:
        """Open addresses, and what is at most so many clicks away."""
        queue = deque((start, 0) for start in starts)
        while queue:
            address, depth = queue.popleft()
            address = urljoin(str(self._client.base_url), address).partition("#")[0]
            if address in self.opened or not self._is_ours(address):
                continue
            self.opened.add(address)
            answer = self._client.get(address)
            if answer.status_code != 200:
                self.problems.append(f"{answer.status_code} {address}: {answer.text[-300:]}")
            if not answer.headers["content-type"].startswith("text/html"):
                continue
            page = (kind(address).partition("?")[0], *self._record(address))
            if page not in self.pages:
                self.pages[page] = address
                queue += [(urljoin(address, form), clicks) for form in forms(answer.text)]
            parts = found(r'<(?!a )\w+[^>]* (?:href|src|poster)="([^"]*)"', answer.text)
            links = found(r'<a [^>]*?href="([^"]*)"', answer.text) if depth < clicks else []
            follow = [(urljoin(address, part), clicks) for part in parts]
            follow += [(urljoin(address, link), depth + 1) for link in links]
            queue += [each for each in follow if self._is_wanted(each[0])]

    def _is_ours(self, address: str) -> bool:
        if address.startswith(str(self._client.base_url)):
            return True
        if not address.startswith(("data:", "about:", "blob:")):
            self.problems.append(f"another host: {address}")
        return False

    def _is_wanted(self, address: str) -> bool:
        """Count an address, and return whether few of its kind were found before."""
        self._kinds[kind(address)] += 1
        return self._kinds[kind(address)] <= MOST

    def _record(self, address: str) -> dict[str, Any]:
        """Return the JSON of a page."""
        answer = self._client.get(address, headers={"Accept": "application/json"})
        if answer.headers["content-type"] != "application/json":
            self.problems.append(f"no JSON: {address}")
            return {}
        return json.loads(
            answer.text, parse_constant=lambda name: self.problems.append(f"{name} in {address}")
        )
