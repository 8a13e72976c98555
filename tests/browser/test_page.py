"""The page in a real browser: asking, watching, cancelling, comparing, coming back, and who may not use a mouse."""

from __future__ import annotations

import json
import re

import pytest

from serve_world import Client, served

pytestmark = pytest.mark.browser

KEY = "a-key-for-the-page"
QUESTION = "compute 17 + 5"


def think(page, *, tokens=9, question=QUESTION, strategy="majority-vote", verifier=""):
    """Fill in the form, ``tokens`` as a power of two, and submit it."""
    until(page, "document.querySelector('#problem').value !== ''")  # the example that it begins with
    page.fill("#problem", question)
    page.select_option("#strategy", strategy)
    page.select_option("#verifier", verifier)
    page.fill("#budget", str(tokens))
    page.click("#go")


def think_on(page):
    """Begin a search that goes on until it is cancelled, and wait for its first line."""
    think(page, tokens=17)
    page.locator(".writing").first.wait_for()


def done(page, runs=1):
    """Wait until so many runs are done."""
    page.locator(".state.done").nth(runs - 1).wait_for()


def until(page, condition):
    """Wait for a condition, a JavaScript expression. The page's policy forbids `wait_for_function`, which evaluates."""
    for _ in range(600):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never became true: {condition}")


def overflow(page):
    """How many pixels of the page lie beyond its right edge."""
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")


def solve_id(page):
    return page.evaluate("location.hash.slice(1)")


def held(model):
    return model.thread.call(model.engine.scheduler.leases)


# ---- asking and watching -------------------------------------------------------------------------------------------


def test_a_question_is_answered_with_posterior_tree_and_bill(site, visit):
    page = visit(site)
    think(page)
    done(page)
    best = page.locator(".best .what").inner_text()
    assert best in ("21", "22", "23")
    found = Client(int(site.split(":")[2][:-1])).get(f"/v1/solves/{solve_id(page)}").json["posterior"]
    assert found["best"] == best
    told = page.locator(".share").first.get_attribute("title")
    assert told.startswith(f"{best}: {round(100 * found['confidence'])}%")
    assert f"{found['cost']['tokens']:,} tokens" in page.locator(".figures").inner_text().replace("\n", " ")
    assert page.locator(".tree li.won .star").count() == 1
    assert page.locator("path.won").count() == 1
    assert best in page.locator("#announcer").inner_text()


def test_the_budget_tells_what_it_costs_before_and_after_something_was_measured(site, visit):
    page = visit(site)
    page.fill("#budget", "10")
    assert re.fullmatch(r"up to 1,020 tokens\s*time not yet measured\s*≈ [0-9.]+ .?FLOPs", page.inner_text("#cost"))
    think(page, tokens=9)
    done(page)
    until(page, "document.querySelector('#cost').textContent.includes(' s')")
    seconds = lambda: float(re.search(r"≈ ([0-9.]+) s", page.inner_text("#cost"))[1])  # noqa: E731
    page.fill("#budget", "12")
    small = seconds()
    page.fill("#budget", "15")
    assert 6 < seconds() / small < 10  # eight times the tokens, as far as two digits tell
    page.locator("#budget").press("ArrowLeft")
    assert page.locator("#budget").get_attribute("aria-valuetext") == "27,550 tokens"


def test_the_tree_grows_before_ones_eyes_and_cancel_frees_its_pages(slow_site, visit, endless):
    page = visit(slow_site)
    think(page, tokens=17, strategy="mcts", verifier="likelihood")
    page.locator(".band").first.wait_for()
    before = page.locator(".figures b").first.inner_text()
    until(page, f"document.querySelector('.figures b').textContent !== '{before}'")
    assert held(endless)
    page.click("#stop")
    page.locator(".state.cancelled").wait_for()
    assert not held(endless)
    assert page.locator("#go").is_enabled() and page.locator("#stop").is_disabled()
    assert page.locator(".band").count() > 0  # what was seen stays


def test_escape_cancels(slow_site, visit, endless):
    page = visit(slow_site)
    think_on(page)
    page.keyboard.press("Escape")
    page.locator(".state.cancelled").wait_for()
    assert not held(endless)


def test_two_strategies_run_side_by_side(site, visit):
    page = visit(site)
    page.check("#compare")
    page.select_option("#other", "greedy")
    think(page)
    done(page, 2)
    assert [run.inner_text() for run in page.locator(".run .title").all()] == ["majority-vote", "greedy"]
    left, right = (run.bounding_box() for run in page.locator(".run").all())
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
    assert len(solve_id(page).split("+")) == 2
    page.reload()
    done(page, 2)
    assert page.locator("#compare").is_checked() and page.input_value("#other") == "greedy"


def test_choosing_an_answer_shows_its_lines_alone(site, visit):
    page = visit(site)
    think(page, tokens=10)
    done(page)
    second = page.locator(".share").nth(1)
    answer = second.locator(".name").inner_text().split()[0].rstrip("✓✗")
    second.click()
    assert {text.split()[-1] for text in page.locator(".tree .chip").all_inner_texts()} == {answer}
    assert page.locator(".share").nth(1).get_attribute("aria-pressed") == "true"
    page.keyboard.press("Escape")
    assert page.locator('.share[aria-pressed="true"]').count() == 0


def test_options_reach_the_server_and_the_budget_can_be_left_unspent(site, visit):
    page = visit(site)
    page.click("summary")
    page.uncheck("#all-of-it")
    page.fill('[data-option="n"]', "3")
    page.select_option("#strategy", "best-of-n")  # what was typed stays, where the other strategy has it too
    think(page)
    done(page)
    told = Client(int(site.split(":")[2][:-1])).get(f"/v1/solves/{solve_id(page)}").json
    assert told["thinking"]["options"] == {"n": 3}
    assert told["posterior"]["attempts"] == 3


def test_what_the_server_refuses_is_told_in_its_words(site, visit):
    page = visit(site, expects=["400"])
    page.fill("#problem", "why? " * 3000)
    page.click("#go")
    page.locator("#trouble").wait_for()
    assert "context" in page.inner_text("#trouble")
    assert page.locator("#go").is_enabled()


# ---- coming back ---------------------------------------------------------------------------------------------------


def test_a_solve_survives_a_reload_and_is_followed_again(slow_site, visit, endless):
    page = visit(slow_site)
    think(page, tokens=17)
    page.locator(".state.running").wait_for()
    first = solve_id(page)
    page.reload()
    page.locator(".state.running").wait_for()
    assert solve_id(page) == first and page.input_value("#problem") == QUESTION
    until(page, "document.querySelector('.figures') !== null")
    page.locator(".run-head button", has_text="Cancel").click()
    page.locator(".state.cancelled").wait_for()
    assert not held(endless)


def test_a_lost_connection_is_made_again(slow_site, visit):
    page = visit(slow_site, expects=["ERR_FAILED", "Failed to load"])
    refused = []

    def cut(route):
        if len(refused) < 2:
            refused.append(route.request.url)
            route.abort()
        else:
            route.continue_()

    page.route("**/api/solves/*/view", cut)
    think(page, tokens=17)
    until(page, "document.querySelector('.figures') !== null")
    assert len(refused) == 2
    page.click("#stop")
    page.locator(".state.cancelled").wait_for()


def test_history_lists_solves_and_leads_back_to_them(site, visit):
    page = visit(site)
    think(page, question="compute 17 + 5")
    done(page)
    first = solve_id(page)
    think(page, question="compute 17 + 6")
    until(page, f"location.hash !== '#{first}'")
    done(page)
    page.click("#tab-history")
    page.locator(".solve").nth(1).wait_for()
    assert [one.inner_text() for one in page.locator(".solve .asked").all()] == ["compute 17 + 6", "compute 17 + 5"]
    page.locator(".solve").nth(1).click()
    until(page, f"location.hash === '#{first}'")
    done(page)
    assert page.input_value("#problem") == "compute 17 + 5"
    page.go_back()
    until(page, "document.querySelector('#problem').value === 'compute 17 + 6'")


def test_the_solve_on_display_is_led_back_to_as_well(site, visit):
    page = visit(site)
    think(page, question="compute 17 + 5")
    done(page)
    page.click("#tab-history")
    page.locator(".solve").first.click()
    page.locator("#view-think").wait_for(state="visible")


def test_what_was_asked_is_put_back_as_it_was(site, visit):
    page = visit(site)
    sent = {"strategy": "majority-vote", "budget": "1k tokens", "options": {"n": 7}}
    asked = {"problem": "compute 17 + 5", "thinking": sent, "seed": 41, "temperature": 0.3}
    reply = page.request.post(f"{page.url.split('#')[0]}v1/solves", data=asked)
    page.goto(f"{page.url.split('#')[0]}#{reply.json()['id']}")
    done(page)
    assert page.input_value("#temperature") == "0.3" and page.input_value("#seed") == "41"
    assert round(2 ** float(page.input_value("#budget"))) in range(990, 1030)
    assert page.input_value("#own-options input[data-option=n]") == "7"
    assert not page.is_checked("#all-of-it")


def test_status_shows_what_runs_and_can_end_it(slow_site, visit, endless):
    page = visit(slow_site)
    think(page, tokens=17)
    page.locator(".state.running").wait_for()
    page.click("#tab-status")
    page.locator("#running .running").wait_for()
    gauges = page.inner_text("#gauges")
    for told in ("tokens/s now", "prompt tokens from the cache", "pages held by branches", "in the queue"):
        assert told in gauges
    page.locator("#running button").click()
    until(page, "document.querySelector('#running .running') === null")
    assert not held(endless)
    page.locator("#rate polyline").wait_for(state="attached")


def test_a_solve_is_saved_as_json_and_as_a_page_that_stands_alone(site, visit, tmp_path):
    page = visit(site)
    think(page)
    done(page)
    with page.expect_download() as saved:
        page.click("text=JSON")
    told = json.loads(saved.value.path().read_text())
    assert told["posterior"]["tree"]["nodes"] and told["id"] == solve_id(page)
    with page.expect_download() as saved:
        page.click("text=HTML")
    file = tmp_path / "tree.html"
    saved.value.save_as(file)
    alone = visit(file.as_uri(), waits_for=".tree li")
    assert alone.inner_text(".best") == page.inner_text(".best")
    assert alone.inner_text("#prompt") == QUESTION
    assert alone.locator(".tree li").count() == page.locator(".tree li").count()


# ---- for everybody -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [320, 360, 768])
def test_nothing_scrolls_sideways(site, visit, width):
    page = visit(site, width=width, height=720, has_touch=True)
    page.check("#compare")
    page.select_option("#other", "particle-filter")
    page.select_option("#other-verifier", "likelihood")
    page.click("summary")
    think(page, tokens=10)
    done(page, 2)
    assert overflow(page) <= 0
    for view in ("history", "status"):
        page.click(f"#tab-{view}")
        page.locator(f"#view-{view} .card, #view-{view} .solve").first.wait_for()
        assert overflow(page) <= 0


def test_a_touch_target_is_large_enough(site, visit):
    page = visit(site, width=360, height=720, has_touch=True)
    think(page)
    done(page)
    for one in page.locator("button:visible, select:visible, .solve:visible").all():
        box = one.bounding_box()
        assert box["height"] >= 24 and box["width"] >= 24, one.inner_text()


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_colours_follow_the_system_until_the_reader_chooses(site, visit, scheme, dark):
    page = visit(site, color_scheme=scheme)
    is_dark = "Number(getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0]) < 128"
    assert page.evaluate(is_dark) is dark
    page.click("#theme")
    assert page.evaluate(is_dark) is not dark
    page.reload()
    page.locator("#strategy option").first.wait_for(state="attached")
    assert page.evaluate(is_dark) is not dark


def test_who_wants_no_motion_gets_none(slow_site, visit):
    moving = "document.getAnimations().length"
    page = visit(slow_site, reduced_motion="reduce")
    think_on(page)
    assert page.evaluate(moving) == 0
    page.emulate_media(reduced_motion="no-preference")
    until(page, f"{moving} > 0")
    page.click("#stop")
    page.locator(".state.cancelled").wait_for()


def test_everything_can_be_done_with_keys(site, visit):
    page = visit(site)
    until(page, "document.querySelector('#problem').value !== ''")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    focus = "document.activeElement.id || document.activeElement.className || document.activeElement.tagName"
    visited = []
    for _ in range(8):
        page.keyboard.press("Tab")
        visited.append(page.evaluate(focus))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", visited[-1]
    assert visited[:4] == ["problem", "strategy", "verifier", "budget"]
    assert [one for one in visited if one in ("go", "sample", "compare")] == ["go", "sample", "compare"]
    page.focus("#problem")
    page.keyboard.press("Control+A")
    page.keyboard.type(QUESTION)
    page.keyboard.press("Control+Enter")
    done(page)
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('role')") == "treeitem":
            break
    current = "document.activeElement.dataset.id"
    first = page.evaluate(current)
    assert first is not None
    page.keyboard.press("ArrowDown")
    assert page.evaluate(current) != first
    page.keyboard.press("ArrowUp")
    assert page.evaluate(current) == first
    page.keyboard.press("End")
    last = page.evaluate(current)
    assert last == page.locator(".tree li").last.get_attribute("data-id")
    page.keyboard.press("w")
    assert page.evaluate("document.activeElement.matches('.won')")


def test_a_branch_folds_and_unfolds_with_the_arrows(site, visit):
    page = visit(site)
    think(page, tokens=10)
    done(page)
    branch = page.locator('.tree li[aria-expanded="true"]').first
    key = branch.get_attribute("data-id")
    rows = page.locator(".tree li").count()
    branch.focus()
    page.evaluate(f"document.querySelector('.tree li[data-id=\"{key}\"]').click()")
    assert page.locator(".tree li").count() < rows
    page.keyboard.press("ArrowRight")
    assert page.locator(".tree li").count() == rows
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.getAttribute('aria-level')") == str(
        int(branch.get_attribute("aria-level")) + 1
    )
    while page.evaluate("document.activeElement.dataset.id") != key:
        page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "false"


def test_tabs_move_with_the_arrows(site, visit):
    page = visit(site)
    page.focus("#tab-think")
    for name in ("history", "status", "think"):
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.id") == f"tab-{name}"
        assert page.locator(f"#view-{name}").is_visible()


# ---- the key -------------------------------------------------------------------------------------------------------


def test_a_server_with_keys_has_the_browser_ask_for_one(visit, model):
    with served(model, api_keys=(KEY,)) as client:
        credentials = {"username": "anyone", "password": KEY}
        page = visit(f"http://127.0.0.1:{client.port}/", http_credentials=credentials, expects=["401"])
        think(page)
        done(page)
        assert KEY not in page.evaluate("JSON.stringify(localStorage) + document.cookie + location.href")
        page.reload()
        done(page)
        with page.expect_download() as saved:
            page.click("text=HTML")
        assert KEY not in saved.value.path().read_text()
        wrong = {"username": "anyone", "password": "not-the-right-key"}
        refused = visit(page.url, http_credentials=wrong, waits_for="body", expects=["401"])
        assert "needs an API key" in refused.inner_text("body")
