"""A language model at an OpenAI-compatible server (vLLM, llama.cpp, OpenAI, ...).

Guarantees
- a request to a busy server is sent again, with growing pauses; a prompt that it refuses, or cannot
  answer, fails alone
- an answer has a total deadline, from connecting to the last byte, and a size limit
- the key goes to no other server, and no message contains it, nor user, password and query string
  of the URL
"""

import asyncio
import json
import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from http.client import responses
from typing import Any
from urllib.parse import parse_qsl

import httpx2

from heads.llm.model import CutOff, Message, Sampling, Unanswered, is_url, shown
from stepdiff_core.errors import StepDiffError

KEY = "OPENAI_API_KEY"
_RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)  # statuses that may pass
_LONGEST_PAUSE = 60.0  # seconds
_LARGEST = 8 * 2**20  # bytes of an answer; the longest have some 100 kB
_QUOTED = 400  # bytes of an error that are quoted
_EXPLANATION = 5.0  # seconds that an error's body may take
_HIDDEN_FROM = 6  # characters; a value of the query string that is as long may be a key


class _Passing(Exception):
    """A failure of a request that may succeed later."""

    def __init__(self, why: str, pause: float | None = None) -> None:
        super().__init__(why)
        self.pause = pause  # seconds that the server wants the client to wait


class _Down(Exception):
    """A failure that every other request would meet too."""


class ServedLLM:
    """A model at a server, one HTTP request per conversation."""

    def __init__(
        self,
        endpoint: str,
        model: str,
        at_once: int = 8,
        timeout: float = 120.0,
        retries: int = 4,
        requests_per_second: float | None = None,
        first_pause: float = 1.0,
    ) -> None:
        """Prepare requests; at_once: requests that are open at once; timeout, first_pause:
        seconds."""
        if not is_url(endpoint):
            raise StepDiffError(
                "--endpoint is not a URL; give one such as http://127.0.0.1:8000/v1"
            )
        self._certificates = httpx2.create_ssl_context()  # once, because it takes 0.1 s
        try:
            url = httpx2.URL(endpoint)
            self._url = url.copy_with(
                path=url.path.rstrip("/") + "/chat/completions", fragment=None
            )
            self._client()
        except httpx2.InvalidURL as error:
            raise StepDiffError(f"--endpoint {shown(endpoint)} is not a URL ({error})") from error
        except (ImportError, ValueError) as error:
            # a proxy in the environment that httpx2 cannot use
            raise StepDiffError(
                f"--endpoint {shown(endpoint)}: the proxy of HTTP_PROXY and such is unusable"
            ) from error
        self.url = shown(str(self._url))
        self.model, self.at_once, self.timeout, self.retries = model, at_once, timeout, retries
        self.first_pause = first_pause
        # seconds between two requests
        self._gap = 1 / requests_per_second if requests_per_second else 0.0
        self._next, self._lock = 0.0, threading.Lock()

    def chat(
        self, conversations: Sequence[Sequence[Message]], sampling: Sampling
    ) -> Iterator[tuple[int, str | Unanswered]]:
        """Yield place and answer of every conversation; once the server is down, Failures that the
        next run retries."""
        down = threading.Event()
        with ThreadPoolExecutor(self.at_once) as threads:
            places = {
                threads.submit(self._answer, messages, sampling, down): place
                for place, messages in enumerate(conversations)
            }
            try:
                for done in as_completed(places):
                    yield places[done], done.result()
            finally:  # a caller who takes no more answers stops the requests
                down.set()

    def _answer(
        self, messages: Sequence[Message], sampling: Sampling, down: threading.Event
    ) -> str | Unanswered:
        """Return one answer, after as many tries as it takes."""
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
                return Unanswered(
                    f"{self.url} is down; run the same command again once it answers", passing=True
                )
            with self._lock:
                now = time.monotonic()
                begin = max(now, self._next)
                self._next = begin + self._gap
            time.sleep(begin - now)
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
                return Unanswered(
                    f"{self.url} {why}, but answers a short prompt: shorten this one or raise "
                    "--timeout"
                )
        down.set()
        return Unanswered(
            f"{self.url} {why}; run the same command again once it answers", passing=True
        )

    def _is_up(self) -> bool:
        with suppress(_Passing, _Down):
            self._ask(
                {
                    "model": self.model,
                    "messages": [{"role": "user", "content": "Say yes."}],
                    "max_tokens": 1,
                }
            )
            return True
        return False

    def _ask(self, body: dict[str, Any]) -> str | Unanswered:
        """Send one request, in an event loop of its own: its deadline cancels any step of the
        request."""
        # a compressed answer could grow beyond its limit
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if key := _key():
            if not (key.isascii() and key.isprintable()):  # an error of the client would quote it
                raise _Down(f"cannot receive the key: {KEY} holds a character that no key has")
            headers["Authorization"] = f"Bearer {key}"
        try:
            return asyncio.run(self._exchange(body, headers))
        except TimeoutError:
            raise _Passing(f"did not answer within {self.timeout:g} s") from None
        except httpx2.ConnectError as error:
            raise _Passing(f"does not answer ({_reason(error)})") from None
        except httpx2.TransportError as error:
            raise _Passing(f"broke off ({type(error).__name__})") from None

    async def _exchange(self, body: dict[str, Any], headers: dict[str, str]) -> str | Unanswered:
        async with asyncio.timeout(self.timeout), self._client() as client:
            data = json.dumps(body).encode()
            async with client.stream("POST", self._url, content=data, headers=headers) as answer:
                if not answer.is_success:
                    return await self._refusal(answer)
                data = await _read(answer, _LARGEST)
        if len(data) > _LARGEST:
            raise _Down(
                f"answers more than {_LARGEST // 2**20} MB, not a chat completion: correct "
                "--endpoint"
            )
        return _content(data, answer.headers.get("Content-Type", "nothing"))

    def _client(self) -> httpx2.AsyncClient:
        """Return a client for one request; the deadline replaces its own timeouts."""
        return httpx2.AsyncClient(verify=self._certificates, timeout=None, follow_redirects=False)

    async def _refusal(self, answer: httpx2.Response) -> Unanswered:
        """Raise, or return, the meaning of an error status."""
        code = answer.status_code
        status = f"{code} {responses.get(code, '')}".strip()
        if code in _RETRIED:
            pause = answer.headers.get("Retry-After", "")
            raise _Passing(f"answers {status}", float(pause) if pause.isdecimal() else None)
        if code in (401, 403):
            raise _Down(f"refuses the key ({code}): set {KEY} in the environment")
        if 300 <= code < 400:
            place = ""
            with suppress(httpx2.InvalidURL):
                place = str(self._url.join(answer.headers.get("Location", "")))
            raise _Down(f"has moved to {shown(place)} ({code}): correct --endpoint")
        if code in (404, 405):
            raise _Down(f"answers {status}: correct --endpoint or the model's name {self.model!r}")
        try:
            async with asyncio.timeout(_EXPLANATION):
                data = await _read(answer, _QUOTED)
        except (TimeoutError, httpx2.TransportError):
            # it stalls or breaks off in its own explanation
            data = b""
        why = self._hidden(data[:_QUOTED].decode(errors="replace").partition("\n")[0]) or status
        return Unanswered(f"the server refuses this prompt ({code}: {why})")

    def _hidden(self, text: str) -> str:
        """Return a server's text without secrets and without control characters."""
        values = [
            value for _, value in parse_qsl(self._url.query.decode()) if len(value) >= _HIDDEN_FROM
        ]
        for secret in (
            _key(),
            self._url.userinfo.decode(),
            self._url.password,
            self._url.query.decode(),
            *values,
        ):
            text = text.replace(secret, "***") if secret else text
        return "".join(letter for letter in text if letter.isprintable())


def _key() -> str:
    return os.environ.get(KEY, "").strip()


async def _read(answer: httpx2.Response, most: int) -> bytes:
    """Return the body, or a little more than `most` bytes of a longer one."""
    data = bytearray()
    async for piece in answer.aiter_raw():
        data += piece
        if len(data) > most:
            break
    return bytes(data)


def _reason(error: BaseException) -> str:
    """Return why the system could not connect, from the first error of the chain."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return str(error)


def _content(data: bytes, kind: str) -> str | Unanswered:
    """Return the text of a chat completion."""
    try:
        choice = json.loads(data)["choices"][0]
        text, cut = choice["message"]["content"], choice.get("finish_reason") == "length"
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        if "json" in kind:
            raise _Passing("answers JSON that is not a chat completion") from None
        raise _Down(
            f"answers {kind.partition(';')[0][:40]}, not a chat completion: correct --endpoint"
        ) from None
    if not isinstance(text, str):
        return Unanswered("the model answered nothing")
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        return Unanswered("the model's answer holds half of a surrogate pair, which is not text")
    return CutOff(text.strip()) if cut else text.strip()
