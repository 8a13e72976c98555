"""Trees of any size and any text: the winning line at a glance, the dead folded away, and text that stays text."""

from __future__ import annotations

import math
import random
import re

import pytest

from outthink.core.budget import Bill
from outthink.core.posterior import Candidate, Posterior
from outthink.core.question import Question, parse_answer
from outthink.core.thought import Thought
from outthink.show import copied, live_view, tree_page
from outthink.show.page import document

pytestmark = pytest.mark.browser

HOSTILE = [
    "<img src=x onerror=window.hit=1>",
    "</script><script>window.hit=1</script>",
    "<svg onload=window.hit=1>",
    "javascript:window.hit=1",
    "'\"><iframe srcdoc='<script>parent.hit=1</script>'>",
    "{{constructor.constructor('window.hit=1')()}}",
    "\u202e\u2028 \x00 %%data%% &lt;b&gt;",
]


def posterior_of(lines: int, seed: int = 7, text: str = "") -> tuple[Posterior, Question]:
    """A made-up search with so many lines, of which about two thirds died; ``text`` stands in every step."""
    draw = random.Random(seed)
    tree = Thought()
    level = [tree.child()]
    for depth in range(4):
        grown = []
        for parent in level:
            for branch in range(draw.randint(2, 5) if len(level) * 3 < lines else 1):
                child = parent.child()
                child.text = f"step {depth}.{branch} of {draw.randint(0, 9)} {text}\n"
                child.tokens, child.log_prob, child.finish = 9, -draw.random(), "stop"
                child.value, child.visits = draw.random(), draw.randint(1, 90)
                grown.append(child)
        level = grown
    ends = []
    for number in range(lines):
        end = draw.choice(level).child()
        alive = number % 3 == 0
        answer = f"{draw.choice((21, 22, 22, 22, 23))}{text}" if alive else None
        end.text, end.tokens = f"answer: {answer}\n" if alive else f"nothing comes of {number}\n", 4
        end.log_prob, end.finish = -draw.random(), "stop"
        end.answer, end.value = answer, draw.random() if alive else -math.inf
        end.fate = None if alive else draw.choice(("outscored", "ruled out", "the same as a sibling"))
        ends.append(end)
    living = [end for end in ends if end.answer is not None]
    candidates = tuple(Candidate(end.answer, -draw.random(), end.text, end) for end in living)
    found = Posterior(candidates, cost=Bill(prefilled=5, decoded=20 * lines, seconds=1.0), tree=tree, attempts=lines)
    for end in living:
        end.fate = "chosen" if end.answer == found.best else "outvoted"
    return found, Question(f"what? {text}", parse_answer)


@pytest.fixture
def drawn(visit, tmp_path):
    """A function that opens the file of a posterior."""

    def open_file(posterior, question, **settings):
        file = tmp_path / "tree.html"
        file.write_text(tree_page(posterior, question), "utf-8")
        return visit(file.as_uri(), waits_for=".tree li", **settings)

    return open_file


def is_seen(page, selector):
    """Whether the first such element lies within the window."""
    box = page.locator(selector).first.bounding_box()
    return box is not None and box["y"] >= 0 and box["y"] + box["height"] <= page.viewport_size["height"]


@pytest.mark.parametrize("lines", [300, 3000])
def test_the_winning_line_is_found_at_a_glance_among_hundreds(drawn, lines):
    posterior, question = posterior_of(lines)
    page = drawn(posterior, question, height=1000)
    assert is_seen(page, "circle.dot")  # where the bold stroke ends
    page.click("text=★ Winner")
    assert is_seen(page, ".tree li.won:focus")
    line = posterior.best_line.thought.line()
    told = "\n".join(page.locator(".tree li.won .steps").all_inner_texts())
    for step in line[2:]:
        assert step.text.strip() in told
    assert page.locator(".tree li.won .star").count() == 1


@pytest.mark.parametrize("lines", [300, 3000])
def test_the_page_stays_small(drawn, lines):
    posterior, question = posterior_of(lines)
    page = drawn(posterior, question)
    count = "document.querySelectorAll('.tree li').length"
    assert page.evaluate(count) < 120
    assert page.evaluate("document.querySelectorAll('*').length") < 6000
    page.click("text=Unfold")
    assert page.evaluate(count) <= 401
    if page.evaluate(count) == 401:
        page.locator(".tree li.rows").click()
        assert page.evaluate(count) > 401
    else:
        assert lines == 300


def test_dead_branches_fold_together_and_unfold(drawn):
    posterior, question = posterior_of(300)
    page = drawn(posterior, question)
    count = "document.querySelectorAll('.tree li').length"
    folded = page.locator(".tree li.dead").first
    assert re.match(r"[0-9]+ branches given up: ", folded.locator(".note").inner_text())
    before = page.evaluate(count)
    folded.click()
    assert page.evaluate(count) > before
    page.locator(".tree li.dead").first.click()
    assert page.evaluate(count) == before


def test_every_branch_can_be_reached_and_says_why_it_died(drawn):
    posterior, question = posterior_of(90)
    page = drawn(posterior, question)
    page.click("text=Unfold")
    text = page.locator(".tree").inner_text()
    for fate in ("outscored", "ruled out", "the same as a sibling", "agrees", "outvoted"):
        assert fate in text
    tokens = sum(thought.tokens for thought in posterior.tree.walk())
    told = [int(one.replace(",", "")) for one in page.locator(".legend b").all_inner_texts()]
    assert sum(told) == posterior.cost.tokens and tokens <= posterior.cost.tokens


def test_what_is_being_written_is_told_apart(visit, tmp_path):
    posterior, question = posterior_of(30)
    for _ in range(4):
        posterior.tree.children[0].children[0].child()
    file = tmp_path / "live.html"
    view = live_view(copied(posterior.tree), posterior.cost, 0.25, question, "mcts", {})
    file.write_text(document(view), "utf-8")
    page = visit(file.as_uri(), waits_for=".tree li")
    assert page.locator(".band.growing").count() > 0
    assert "4 being written" in page.locator(".river h3").inner_text().lower()
    assert page.locator(".writing").first.inner_text() == "4 lines being written"
    assert "25% of the budget spent" in page.locator(".bill").first.inner_text()


def test_searching_shows_the_lines_that_hold_the_text(drawn):
    posterior, question = posterior_of(300)
    page = drawn(posterior, question)
    wanted = posterior.best_line.thought.line()[3].text.strip()
    page.keyboard.press("/")
    page.keyboard.type(wanted)
    page.locator("mark").first.wait_for()
    assert set(page.locator("mark").all_inner_texts()) == {wanted}
    page.keyboard.press("Escape")
    page.locator("mark").first.wait_for(state="detached")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(drawn, text):
    posterior, question = posterior_of(12, text=text)
    page = drawn(posterior, question)
    page.click("text=Unfold")
    for band in page.locator(".band").all()[:3]:
        band.hover(force=True)
    assert page.evaluate("window.hit") is None
    assert page.evaluate("document.querySelectorAll('main img, main iframe, main script').length") == 0
    assert text.split()[0] in page.inner_text("#prompt")


def test_the_check_catches_a_page_that_takes_text_for_markup(chromium):
    page = chromium.new_page()
    page.set_content("<main></main>")
    page.evaluate("text => { document.querySelector('main').innerHTML = text; }", HOSTILE[0])
    page.wait_for_timeout(200)
    assert page.evaluate("window.hit") == 1
    page.close()


@pytest.mark.parametrize("width", [320, 360])
def test_a_large_tree_fits_a_phone(drawn, width):
    page = drawn(*posterior_of(300), width=width, height=700)
    page.click("text=Unfold")
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
