"""Fixtures for the tests of every room: a local S3 server, a small language model, torch's
threads."""

import logging
import os
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

# No test depends on the speed of the machine. The quick tests draw fewer examples.
settings.register_profile("quick", deadline=None, max_examples=25)
settings.register_profile("full", deadline=None)

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    # Set before anything loads OpenMP, so that test processes do not compete for cores.
    _THREADS = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(_THREADS))
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # By default Ray's workers have a lower priority and would wait for the tests of other
    # processes.
    os.environ.setdefault("RAY_worker_niceness", "0")


PROGRAMS = {
    "chromium": "pages in a browser",
    "initdb": "PostgreSQL",
    "nginx": "a proxy",
    "caddy": "another proxy",
}
"""programs that some tests need -> what is tested with them"""
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
PATIENCE = 120_000.0
"""milliseconds that a test waits for a state of a page: a busy machine is slow"""


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("quick" if config.option.markexpr == "not full" else "full")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Say what this run leaves out, and how to run it."""
    if hasattr(session.config, "workerinput"):  # the process that collects the results says it
        return
    write = session.config.get_terminal_writer().line
    if session.config.option.markexpr == "not full":
        write(
            "left out: browsers, clusters, all kills, hostile files, oracles at full size; make "
            "test-all runs them"
        )
    found = {
        name: shutil.which(name) or glob(f"/usr/lib/postgresql/*/bin/{name}") for name in PROGRAMS
    }
    if missing := [name for name in PROGRAMS if not found[name]]:
        packages = " ".join(missing).replace("initdb", "postgresql")
        write(
            f"left out: {', '.join(PROGRAMS[name] for name in missing)}; apt-get install {packages}"
        )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the journey first: it takes longest."""
    items.sort(key=lambda item: item.path.name != "test_journey.py")


def fetched(name: str) -> Path:
    """Return the folder of fetched weights; skip the test if they are not fetched."""
    from stepdiff_core.errors import StepDiffError
    from stepdiff_core.weights import resolve

    try:
        return resolve(name)
    except StepDiffError as problem:
        pytest.skip(str(problem))


@pytest.fixture(autouse=True)
def torch_keeps_its_threads() -> Iterator[None]:
    """Restore torch's number of threads, which workers in this process change and on which sums
    depend."""
    import torch

    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The URL of moto's S3 server, also set in the environment of this process and its children."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel("ERROR")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    with pytest.MonkeyPatch.context() as environment:
        for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL_S3"):
            environment.delenv(name, raising=False)
        environment.setenv("AWS_ACCESS_KEY_ID", "key")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        environment.setenv("AWS_REGION", "us-east-1")
        environment.setenv("AWS_ENDPOINT_URL", url)
        yield url
    server.stop()


@pytest.fixture
def bucket(s3_server: str) -> str:
    """The URL of a new bucket, or of a folder below STORE_TEST_URL, with which any object store can
    be tested."""
    import boto3

    name = f"bucket-{uuid.uuid4().hex[:8]}"
    if own := os.environ.get("STORE_TEST_URL"):
        return f"{own}/{name}"
    boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1").create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture
def s3_bucket(bucket: str) -> str:
    """The bucket, for features that only S3 has."""
    if not bucket.startswith("s3://"):
        pytest.skip("only S3 has this")
    return bucket


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], bool]]:
    """Return whether anything was sent: object stores and the hub are at a local port."""
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        given = {"ENDPOINT_URL": url, "ALLOW_HTTP": "true", "REGION": "us-east-1"}
        for name, value in {**given, "ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setattr(constants, "ENDPOINT", url)

        def asked() -> bool:
            try:
                server.accept()[0].close()
            except BlockingIOError:
                return False
            return True

        yield asked


@pytest.fixture(scope="session")
def tiny_lm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A randomly initialised Llama of two layers with a byte-level tokenizer and a chat
    template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny_lm")
    control = ["<|end|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(control + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    fast.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": len(vocabulary)}
    ends = vocabulary["<|im_end|>"]
    # with the usual initializer_range of 0.02 a random model hardly depends on its input
    config = LlamaConfig(
        **sizes,
        eos_token_id=ends,
        bos_token_id=None,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    """Chromium, without a window: one for all rooms, because a process runs one Playwright."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        new_context = browser.new_context

        def patient(**options: Any) -> "BrowserContext":
            context = new_context(**options)
            context.set_default_timeout(PATIENCE)
            return context

        browser.new_context = patient  # type: ignore[method-assign]
        yield browser
        browser.close()
