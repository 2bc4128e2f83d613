"""A language model at an OpenAI-compatible server (vLLM, llama.cpp, OpenAI, ...).

Guarantees
- a server that is busy, slow or restarting is asked again, after longer and longer pauses
- one that dies, times out, refuses the key or answers something else gives one line, and every answer that came before
  it is kept
- a prompt that gets no answer where a short one gets its own fails alone
- no more requests than allowed are on their way at once, or begin within a second
- the key comes from OPENAI_API_KEY, and is told to nobody but the server: no redirect is followed
"""

import http.client
import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any
from urllib.parse import urlsplit

from annotate.answers import Failure
from annotate.errors import AnnotateError
from annotate.llm import CutOff, Sampling
from annotate.prompts import Message

KEY = "OPENAI_API_KEY"
_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)  # statuses that may pass
_REFUSED = (401, 403, 404, 405)  # statuses that every request would get
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds


class _Passing(Exception):
    """A request that may succeed later."""

    def __init__(self, why: str, pause: float | None = None) -> None:
        """pause: seconds that the server asks to wait."""
        super().__init__(why)
        self.pause = pause


class _Down(Exception):
    """What every other request would meet too."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Leaves a redirect an error: followed, it would take the key to another server, and the prompt to none."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirect)


class ServedLLM:
    """AnnotateError: an endpoint that is no URL."""

    def __init__(
        self,
        endpoint: str,
        model: str,
        at_once: int = 8,
        timeout: float = 120.0,
        retries: int = 4,
        requests_per_second: float | None = None,
        first_pause: float = _FIRST_PAUSE,
    ) -> None:
        """at_once: requests on their way; timeout, first_pause: seconds."""
        if not _is_url(endpoint):
            raise AnnotateError(f"--endpoint {endpoint}: no URL; give one as http://127.0.0.1:8000/v1")
        self.url = endpoint.rstrip("/") + "/chat/completions"
        self.model, self.at_once, self.timeout, self.retries = model, at_once, timeout, retries
        self.first_pause = first_pause
        self._pace = _Pace(requests_per_second)
        self.busy = 0.0

    def chat(
        self, conversations: Sequence[Sequence[Message]], sampling: Sampling
    ) -> Iterator[tuple[int, str | Failure]]:
        """Place and answer of every conversation, as they come; behind a server that is down, Failures that pass."""
        begin = time.monotonic()
        down = threading.Event()
        with ThreadPoolExecutor(self.at_once) as threads:
            asked = {
                threads.submit(self._answer, messages, sampling, down): place
                for place, messages in enumerate(conversations)
            }
            try:
                for done in as_completed(asked):
                    self.busy, begin = self.busy + time.monotonic() - begin, time.monotonic()
                    yield asked[done], done.result()
                    begin = time.monotonic()
            finally:  # whoever stops taking answers stops the requests
                down.set()

    def _answer(self, messages: Sequence[Message], sampling: Sampling, down: threading.Event) -> str | Failure:
        """One answer, after as many tries as it takes."""
        body = {
            "model": self.model,
            "messages": list(messages),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
        }
        why = "the server is down"
        for attempt in range(self.retries + 1):
            if down.is_set():
                return Failure(f"{self.url} was given up; run the same command again once it answers", passing=True)
            self._pace.wait()
            try:
                return self._ask(body)
            except _Passing as problem:
                why = f"{problem} ({attempt + 1} tries)"
                pause = problem.pause or self.first_pause * 2**attempt * random.uniform(0.8, 1.2)
                if attempt < self.retries:
                    down.wait(min(pause, _LONGEST_PAUSE))
            except _Down as problem:
                why = str(problem)
                break
        else:
            if self._is_up():
                return Failure(f"{self.url} {why}, though it answers a short prompt: mend this one or --timeout")
        down.set()
        return Failure(f"{self.url} {why}; run the same command again once it answers", passing=True)

    def _is_up(self) -> bool:
        """Whether the server answers a prompt that any server can."""
        try:
            self._ask({"model": self.model, "messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 1})
        except (_Passing, _Down):
            return False
        return True

    def _ask(self, body: dict[str, Any]) -> str | Failure:
        """One request."""
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY, "").strip():
            if not (key.isascii() and key.isprintable()):  # http.client would quote it
                raise _Down(f"cannot be told the key: {KEY} holds a character that no key has")
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        try:
            with _opener.open(request, timeout=self.timeout) as answer:
                return _content(answer.read(), answer.headers.get("Content-Type", "nothing"))
        except urllib.error.HTTPError as error:
            with error:
                return self._refusal(error)
        except TimeoutError:
            raise _Passing(f"did not answer within {self.timeout:g} s") from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise _Passing(f"did not answer within {self.timeout:g} s") from None
            raise _Passing(f"does not answer ({error.reason})") from None
        except (http.client.HTTPException, OSError) as error:  # ConnectionError, SSLError
            raise _Passing(f"broke off ({type(error).__name__})") from None

    def _refusal(self, error: urllib.error.HTTPError) -> Failure:
        """What an error status means."""
        if error.code in _AGAIN:
            pause = error.headers.get("Retry-After", "")
            raise _Passing(f"answers {error.code} {error.reason}", float(pause) if pause.isdecimal() else None)
        if error.code in (401, 403):
            raise _Down(f"refuses the key ({error.code}): set {KEY} in the environment")
        if 300 <= error.code < 400:
            raise _Down(f"is moved to {error.headers.get('Location')} ({error.code}): correct --endpoint")
        if error.code in _REFUSED:
            raise _Down(f"answers {error.code} {error.reason}: correct --endpoint or the model's name {self.model!r}")
        try:
            told = error.read(400).decode(errors="replace").split("\n")[0]
        except (http.client.HTTPException, OSError):  # it stalls within its own excuse
            told = error.reason
        return Failure(f"the server refuses this prompt ({error.code}: {told})")


def _is_url(endpoint: str) -> bool:
    try:
        parts = urlsplit(endpoint)
        return endpoint.isascii() and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bracket left open, a port that is no number
        return False


class _Pace:
    """Lets so many requests a second begin."""

    def __init__(self, per_second: float | None) -> None:
        self._gap = 1 / per_second if per_second else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._next)
            self._next = begin + self._gap
        time.sleep(begin - now)


def _content(data: bytes, kind: str) -> str | Failure:
    """What an answer says."""
    try:
        choice = json.loads(data)["choices"][0]
        said, cut = choice["message"]["content"], choice.get("finish_reason") == "length"
    except (ValueError, LookupError, TypeError, AttributeError):
        if "json" in kind:
            raise _Passing("answers JSON that is no chat completion") from None
        raise _Down(f"answers {kind.partition(';')[0]}, no chat completion: correct --endpoint") from None
    if not isinstance(said, str):
        return Failure("the model said nothing")
    return CutOff(said.strip()) if cut else said.strip()
