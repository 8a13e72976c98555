"""A headless Chromium, driven by Playwright from an environment of its own, and servers over tiny models for it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import outthink
from cli.tiny_model import make_model
from outthink.bench.engine.runners import READY, default_directory
from serve_world import served

PACKAGES = ("playwright>=1.50", "axe-playwright-python>=0.1.4")
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def environment() -> Path:
    """The folder of Playwright's packages, installed on first use, for this very version of Python."""
    place = default_directory() / "browser"
    place.mkdir(parents=True, exist_ok=True)
    mark = {"python": sys.version.split()[0], "packages": list(PACKAGES)}
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / READY).is_file() or json.loads((place / READY).read_text()) != mark:
            subprocess.run([sys.executable, "-m", "venv", place / "venv", "--clear"], check=True)
            pip = [place / "venv" / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, *PACKAGES], check=True)
            (place / READY).write_text(json.dumps(mark))
    return next((place / "venv" / "lib").glob("python*/site-packages"))


@pytest.fixture(scope="session")
def chromium():
    """A running browser."""
    program = os.environ.get("OUTTHINK_CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if program is None:
        pytest.fail(
            f"There is no Chromium: none of {', '.join(CHROMIUMS)} is on PATH. Install one (apt-get install chromium), "
            "or name it in the variable OUTTHINK_CHROMIUM."
        )
    packages = str(environment())
    sys.path.append(packages)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # A container's root user has no sandbox; nothing but this project's own pages is opened.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"] * (os.geteuid() == 0))
        yield browser
        browser.close()
    sys.path.remove(packages)


@pytest.fixture
def visit(chromium):
    """A function that opens an address in a context of its own and returns the page.

    At the end no script may have failed, nothing may have been refused by the page's policy, and nothing may have been
    asked of another address.
    """
    contexts, wrong = [], []

    def open_page(address, *, width=1280, height=900, waits_for="#strategy option", expects=(), **settings):
        context = chromium.new_context(viewport={"width": width, "height": height}, **settings)
        context.set_default_timeout(60_000)
        contexts.append(context)
        page = context.new_page()
        origin = address.split("#")[0] if address.startswith("file:") else "/".join(address.split("/")[:3])

        def told(message):
            if message.type in ("error", "warning") and not any(known in message.text for known in expects):
                wrong.append(message.text)

        page.on("console", told)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda asked: asked.url.startswith((origin, "blob:", "data:")) or wrong.append(asked.url))
        page.goto(address)
        if waits_for:
            page.locator(waits_for).first.wait_for(state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A model that draws whole steps of reasoning at random, and soon ends."""
    with outthink.load(make_model(tmp_path_factory.mktemp("browser") / "tiny")) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def endless(tmp_path_factory):
    """A model whose lines end only with its long context: a solve goes on until it is cancelled."""
    directory = make_model(tmp_path_factory.mktemp("browser") / "endless", ends=False, context=200_000)
    with outthink.load(directory) as loaded:
        yield loaded


@pytest.fixture
def site(model):
    """The address of a server whose solves soon end."""
    with served(model) as client:
        yield f"http://127.0.0.1:{client.port}/"
    assert not model.thread.call(model.engine.scheduler.leases), "a solve left pages behind"


@pytest.fixture
def slow_site(endless):
    """The address of a server whose solves go on."""
    with served(endless, drain=0.1) as client:
        yield f"http://127.0.0.1:{client.port}/"
    assert not endless.thread.call(endless.engine.scheduler.leases), "a solve left pages behind"
