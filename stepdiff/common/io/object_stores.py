"""Connections to object stores, configured by the environment, and their errors.

Use in a forked process is refused: obstore would wait for threads that the child does not have.
"""

import errno
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import from_url

from stepdiff.common.errors import StepDiffError
from stepdiff.common.threads import NotForked

if TYPE_CHECKING:
    from obstore.store import ObjectStore

REQUEST = timedelta(seconds=30)
"""time after which an unanswered request has failed"""
RETRY: Any = {"max_retries": 1000, "retry_timeout": timedelta(seconds=45)}
"""obstore's `retry_config`: failed requests are repeated at most 15 seconds later, until 45 seconds after the first"""
_REQUESTS = 32  # at once: a connection to S3 carries some 90 MB/s, a process wants more

_obstore = NotForked()


def pool() -> ThreadPoolExecutor:
    """Return threads for many requests at once."""
    check_threads()
    return _threads()


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_REQUESTS, thread_name_prefix="store-remote")


@cache
def objects(base: str) -> "ObjectStore":
    """Return the object store at `base`."""
    if base.startswith("memory:"):
        return from_url(base)
    # AWS_ENDPOINT_URL may be http://; without it https:// is used
    return from_url(base, client_options={"allow_http": True, "timeout": REQUEST}, retry_config=RETRY)


def check_threads() -> None:
    """Raise StepDiffError in a process that was forked from one that uses obstore."""
    _obstore.use(
        "cannot use an object store in a forked process: use it after the fork alone, or start workers with spawn"
    )


@contextmanager
def clear_errors(verb: str, url: str) -> Iterator[None]:
    """Turn errors of obstore into one line of StepDiffError; FileNotFoundError where the object does not exist."""
    check_threads()
    try:
        yield
    except FileNotFoundError as error:
        if verb == "write" or "NoSuchBucket" in str(error):
            raise _failed(verb, url, error) from error
        raise FileNotFoundError(errno.ENOENT, "no such object", url) from error
    except BaseError as error:
        raise _failed(verb, url, error) from error


def _failed(verb: str, url: str, error: Exception) -> StepDiffError:
    said = str(error)
    if "169.254.169.254" in said:  # obstore tried the metadata service of the machine
        why, what = "no credentials", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    elif "NoSuchBucket" in said or isinstance(error, FileNotFoundError):
        why, what = "no such bucket", "create it, or correct the URL"
    elif isinstance(error, PermissionDeniedError | UnauthenticatedError):
        why, what = _reason(said), "check the credentials in the environment and what they may do"
    else:
        why, what = _reason(said), "what is committed is safe; check network and endpoint and run the command again"
    return StepDiffError(f"cannot {verb} {url} ({why}): {what}")


def _reason(said: str) -> str:
    """Return the reason in an error of obstore, on one line."""
    code = re.search(r"<Code>(.*?)</Code>", said)
    message = re.search(r"<Message>(.*?)</Message>", said, re.DOTALL)
    if code and message:
        return f"{code[1]}: {' '.join(message[1].split())}".rstrip(". ")
    first = said.partition("\n")[0]
    return first.rpartition(" - ")[2].strip() or type(said).__name__
