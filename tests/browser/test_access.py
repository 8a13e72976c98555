"""Accessibility by axe-core, in light and dark, over every view of the page and the tree's file."""

from __future__ import annotations

import pytest

from browser.test_page import done, think, think_on
from browser.test_trees import drawn, posterior_of  # noqa: F401  (a fixture)

pytestmark = pytest.mark.browser

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def faults(page):
    """What axe-core finds wrong, one line an element."""
    from axe_playwright_python.sync_playwright import Axe

    # Brought in by the driver, which the page's policy does not bind; nothing of it stays in the page.
    found = Axe().run(page, options={"runOnly": {"type": "tag", "values": RULES}})
    return [
        f"{violation['id']}: {node['html'][:160]} ({node['failureSummary'][:200]})"
        for violation in found.response["violations"]
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_has_no_faults(site, visit, scheme):
    page = visit(site, color_scheme=scheme, height=1400)
    assert faults(page) == []
    page.click("summary")
    think(page, tokens=10)
    done(page)
    assert faults(page) == []
    for view in ("history", "status"):
        page.click(f"#tab-{view}")
        page.locator(f"#view-{view} .card, #view-{view} .solve").first.wait_for()
        assert faults(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_growing_tree_has_no_faults(slow_site, visit, scheme):
    page = visit(slow_site, color_scheme=scheme, reduced_motion="reduce")
    think_on(page)
    assert faults(page) == []
    page.click("#stop")
    page.locator(".state.cancelled").wait_for()
    assert faults(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_file_of_a_tree_has_no_faults(drawn, scheme):  # noqa: F811
    page = drawn(*posterior_of(90), color_scheme=scheme)
    page.click("text=Unfold")
    assert faults(page) == []


def test_the_check_finds_faults_where_there_are_some(site, visit):
    page = visit(site)
    page.evaluate("document.querySelector('main').append(new Image(), document.createElement('button'))")
    assert {fault.split(":")[0] for fault in faults(page)} >= {"image-alt", "button-name"}
