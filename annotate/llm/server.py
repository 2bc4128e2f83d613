"""A language model at an OpenAI-compatible server (vLLM, llama.cpp, OpenAI, ...).

Guarantees
- a server that is busy, slow or restarting is asked again, after longer and longer pauses
- one that dies, times out, refuses the key or answers something else gives one line, and every answer that came before
  it is kept
- an answer has a deadline as a whole, from connecting to the last byte, and a limit of size
- a prompt that gets no answer where a short one gets its own fails alone
- no more requests than allowed are on their way at once, or begin within a second
- the key comes from OPENAI_API_KEY, and only the server receives it: no redirect is followed
- no message contains the key, or user, password or query string of the URL
"""

import asyncio
import json
import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from http.client import responses
from typing import Any
from urllib.parse import parse_qsl

import httpx2

from annotate.llm.endpoint import is_url, shown
from annotate.llm.options import CutOff, Sampling
from annotate.qa.prompts import Message
from annotate.stages.job import Failure
from common.errors import StepDiffError

KEY = "OPENAI_API_KEY"
_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)  # statuses that may pass
_REFUSED = (401, 403, 404, 405)  # statuses that every request would get
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds
_LARGEST = 8 * 2**20  # bytes of an answer; the longest answers have some 100 kB
_QUOTED = 400  # bytes of an error that are quoted
_EXPLANATION = 5.0  # seconds that an error's body may take
_HIDDEN_FROM = 6  # characters; a value of the query string as long as that may be a key


class _Passing(Exception):
    """A request that may succeed later."""

    def __init__(self, why: str, pause: float | None = None) -> None:
        """pause: seconds that the server asks to wait."""
        super().__init__(why)
        self.pause = pause


class _Down(Exception):
    """What every other request would meet too."""


class ServedLLM:
    """StepDiffError: an endpoint that is no URL."""

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
        """at_once: requests on their way; timeout: seconds of a whole answer; first_pause: seconds."""
        if not is_url(endpoint):
            raise StepDiffError("--endpoint is no URL; give one as http://127.0.0.1:8000/v1")
        self._certificates = httpx2.create_ssl_context()  # takes 0.1 s, and serves every request
        try:
            url = httpx2.URL(endpoint)
            self._url = url.copy_with(path=url.path.rstrip("/") + "/chat/completions", fragment=None)
            self._client()
        except httpx2.InvalidURL as error:
            raise StepDiffError(f"--endpoint {shown(endpoint)} is no URL ({error})") from error
        except (ImportError, ValueError) as error:  # a proxy in the environment that httpx2 cannot use
            raise StepDiffError(f"--endpoint {shown(endpoint)} cannot be reached as HTTP_PROXY and such say") from error
        self.url = shown(str(self._url))
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
        """One request, in an event loop of its own: its deadline cancels whatever step the request is at."""
        headers = {"Content-Type": "application/json"}
        headers["Accept-Encoding"] = "identity"  # a compressed answer could grow beyond its limit
        if key := _key():
            if not (key.isascii() and key.isprintable()):  # an error of the client would quote it
                raise _Down(f"cannot be told the key: {KEY} holds a character that no key has")
            headers["Authorization"] = f"Bearer {key}"
        try:
            return asyncio.run(self._exchange(body, headers))
        except TimeoutError:
            raise _Passing(f"did not answer within {self.timeout:g} s") from None
        except httpx2.ConnectError as error:
            raise _Passing(f"does not answer ({_reason(error)})") from None
        except httpx2.TransportError as error:
            raise _Passing(f"broke off ({type(error).__name__})") from None

    async def _exchange(self, body: dict[str, Any], headers: dict[str, str]) -> str | Failure:
        async with asyncio.timeout(self.timeout), self._client() as client:
            data = json.dumps(body).encode()
            async with client.stream("POST", self._url, content=data, headers=headers) as answer:
                if not answer.is_success:
                    return await self._refusal(answer)
                data = await _read(answer, _LARGEST)
        if len(data) > _LARGEST:
            raise _Down(f"answers more than {_LARGEST // 2**20} MB, no chat completion: correct --endpoint")
        return _content(data, answer.headers.get("Content-Type", "nothing"))

    def _client(self) -> httpx2.AsyncClient:
        """A client for one request; the deadline covers all that its own timeouts would."""
        return httpx2.AsyncClient(verify=self._certificates, timeout=None, follow_redirects=False)

    async def _refusal(self, answer: httpx2.Response) -> Failure:
        """What an error status means."""
        code = answer.status_code
        status = f"{code} {responses.get(code, '')}".strip()
        if code in _AGAIN:
            pause = answer.headers.get("Retry-After", "")
            raise _Passing(f"answers {status}", float(pause) if pause.isdecimal() else None)
        if code in (401, 403):
            raise _Down(f"refuses the key ({code}): set {KEY} in the environment")
        if 300 <= code < 400:
            raise _Down(f"is moved to {self._moved(answer)} ({code}): correct --endpoint")
        if code in _REFUSED:
            raise _Down(f"answers {status}: correct --endpoint or the model's name {self.model!r}")
        try:
            async with asyncio.timeout(_EXPLANATION):
                data = await _read(answer, _QUOTED)
        except (TimeoutError, httpx2.TransportError):  # it stalls or breaks off within its own explanation
            data = b""
        told = self._hidden(data[:_QUOTED].decode(errors="replace").partition("\n")[0]) or status
        return Failure(f"the server refuses this prompt ({code}: {told})")

    def _moved(self, answer: httpx2.Response) -> str:
        """Where a redirect leads."""
        try:
            return shown(str(self._url.join(answer.headers.get("Location", ""))))
        except httpx2.InvalidURL:
            return "what is no URL"

    def _hidden(self, text: str) -> str:
        """What a server says, without what it must not repeat, and without what a terminal would obey."""
        values = [value for _, value in parse_qsl(self._url.query.decode()) if len(value) >= _HIDDEN_FROM]
        for secret in (_key(), self._url.userinfo.decode(), self._url.password, self._url.query.decode(), *values):
            text = text.replace(secret, "***") if secret else text
        return "".join(letter for letter in text if letter.isprintable())


def _key() -> str:
    return os.environ.get(KEY, "").strip()


async def _read(answer: httpx2.Response, most: int) -> bytes:
    """The body, or a little more than `most` bytes of it where it is longer."""
    data = bytearray()
    async for piece in answer.aiter_raw():
        data += piece
        if len(data) > most:
            break
    return bytes(data)


def _reason(error: BaseException) -> str:
    """Why the system could not connect, out of the error that began it."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return str(error)


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
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        if "json" in kind:
            raise _Passing("answers JSON that is no chat completion") from None
        raise _Down(f"answers {kind.partition(';')[0][:40]}, no chat completion: correct --endpoint") from None
    if not isinstance(said, str):
        return Failure("the model said nothing")
    if not said.isascii() and any("\ud800" <= letter <= "\udfff" for letter in said):
        return Failure("the model said half of a surrogate pair, which is no text")
    return CutOff(said.strip()) if cut else said.strip()
