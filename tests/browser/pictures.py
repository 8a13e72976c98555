"""Takes the pictures of the page in ``docs/`` from a running server, into a folder.

    outthink serve --port 8000 --database sqlite:// &
    python tests/browser/pictures.py http://127.0.0.1:8000/ docs

Run it with the interpreter of Playwright's environment, which the browser tests make in their cache.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

QUESTION = "letters o d x p: rotate right 3; shift 3; rotate right 2"


def think(page: Page, budget: str, *runs: tuple[str, str]) -> str:
    """Ask with a strategy and a verifier, or with two side by side; returns the address of what was found."""
    page.locator("#strategy option").first.wait_for(state="attached")
    page.fill("#problem", QUESTION)
    page.set_checked("#compare", len(runs) > 1)
    for (strategy, verifier), (first, second) in zip(
        runs, (("#strategy", "#verifier"), ("#other", "#other-verifier")), strict=False
    ):
        page.select_option(first, strategy)
        page.select_option(second, verifier)
    page.fill("#budget", budget)
    page.click("#go")
    page.locator(".state.done").nth(len(runs) - 1).wait_for()
    return page.url


def main(address: str, folder: Path) -> None:
    """Write page.png, page-compare.png and page-phone.png."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1180}, color_scheme="light")
        page.set_default_timeout(300_000)
        page.goto(address)
        think(page, "12", ("particle-filter", "prm"))  # so that time is measured
        one = think(page, "12", ("particle-filter", "prm"))
        page.wait_for_timeout(500)
        page.screenshot(path=folder / "page.png")
        two = think(page, "11", ("majority-vote", ""), ("particle-filter", "prm"))
        for name, url, scheme, width, height, top in (
            ("page-compare.png", two, "dark", 1440, 1250, "#runs"),
            ("page-phone.png", one, "light", 360, 760, ".river"),
        ):
            shot = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            shot.goto(url)
            shot.locator(".state.done").last.wait_for()
            shot.evaluate(f"scrollTo(0, document.querySelector('{top}').offsetTop - 20)")
            shot.wait_for_timeout(500)
            shot.screenshot(path=folder / name)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
