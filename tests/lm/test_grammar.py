"""Constraints: the texts that can be reached are the language, all of it and nothing else, however tokens cut it."""

import asyncio
import json
import math
import re
from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest

from outthink.core.budget import Budget, Ledger
from outthink.core.errors import CapabilityError, SamplingError
from outthink.core.question import Question
from outthink.core.sampling import Sampling, Until
from outthink.lm.grammar import Grammars
from outthink.lm.remote.capabilities import Route
from outthink.lm.toy import ToyLM, random_law
from outthink.models.rewards import BUNDLED
from outthink.models.tokenizer import Tokenizer
from outthink.reason.solve import think


@dataclass(eq=False)
class Words:
    """A tokenizer of any pieces; those of ``special`` mark structure, and ``eos_ids`` end a text."""

    pieces: list[bytes]
    eos_ids: tuple[int, ...]
    special: tuple[int, ...] = ()

    @property
    def vocab_size(self):
        return len(self.pieces)

    def token_bytes(self, token):
        return self.pieces[token]

    def is_special(self, token):
        return token in self.special


LETTERS = Words([b"a", b"b", b"c", b"<end>"], (3,), (3,))
CUTS = Words([b"<end>", b"a", b"ab", b"b", b"abc", b"c", b"a", b"", b"<pad>", b"bca", b"<stop>"], (0, 10), (0, 8, 10))
BYTES = Words([b"\xc3", b"\xa9", b"a", "é".encode(), b"<end>", b"\xff"], (4,), (4,))


def reachable(grammar, words, longest=12):
    """Every way to be done within ``longest`` tokens: the text, and how often it comes. Asserts that no way is a dead
    end.
    """
    found, ways = {}, [(grammar.begin(words), b"", 0)]
    while ways:
        state, text, length = ways.pop()
        allowed = np.flatnonzero(state.allowed())
        assert len(allowed), f"nothing can follow {text!r}"
        for token in allowed.tolist():
            if token in words.eos_ids:
                found[text] = found.get(text, 0) + (token == words.eos_ids[0])
            elif length < longest:
                after = state.copy()
                after.advance(token)
                ways.append((after, text + words.pieces[token], length + 1))
    return found


def spellings(text, words):
    """How many sequences of plain tokens spell ``text``."""
    pieces = [p for t, p in enumerate(words.pieces) if p and t not in (*words.special, *words.eos_ids)]
    count = [1] + [0] * len(text)
    for end in range(1, len(text) + 1):
        count[end] = sum(count[end - len(p)] for p in pieces if text[:end].endswith(p))
    return count[-1]


def language(pattern, alphabet, longest):
    texts = ("".join(letters) for size in range(longest + 1) for letters in product(alphabet, repeat=size))
    return {text.encode() for text in texts if re.fullmatch(pattern, text)}


@pytest.mark.parametrize("words", [LETTERS, CUTS], ids=["letters", "cuts"])
@pytest.mark.parametrize("pattern", ["a(b|c){0,3}", "(ab|a|bca)c?", "abc", "(a|b)?(b|ca){1,2}", "", "a*b{2}(c|a)"])
def test_what_can_be_reached_is_the_language_in_every_spelling(words, pattern):
    longest = 7
    found = reachable(Grammars(words).regex(pattern), words, longest)
    expected = language(pattern, "abc", longest)
    assert {text: n for text, n in found.items() if text in expected} == {t: spellings(t, words) for t in expected}
    assert all(re.fullmatch(pattern, text.decode()) for text in found)


def test_characters_are_cut_by_tokens_and_bytes_of_none_are_not_drawn():
    found = reachable(Grammars(BYTES).regex("(é|a){2}"), BYTES)
    assert found == {t: spellings(t, BYTES) for t in (s.encode() for s in ("éé", "éa", "aé", "aa"))}


def test_a_check_that_reads_the_wrong_bytes_is_noticed():
    @dataclass(eq=False)
    class Shifted(Words):
        def token_bytes(self, token):
            return self.pieces[(token + 1) % 3] if token < 3 else self.pieces[token]

    wrong = Shifted(LETTERS.pieces, LETTERS.eos_ids, LETTERS.special)
    assert set(reachable(Grammars(wrong).regex("ab"), wrong)) != language("ab", "abc", 4)


def test_json_of_a_schema_is_all_of_it_and_nothing_else():
    characters = '{}[]":,abtruefalsn12'  # and no space
    words = Words([*(c.encode() for c in dict.fromkeys(characters)), b'{"', b'":', b"true", b"<end>"], ())
    words.eos_ids = words.special = (len(words.pieces) - 1,)
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}, "b": {"enum": [1, "ta", None]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    values = [{"a": a} | ({} if b == "no" else {"b": b}) for a in (True, False) for b in ("no", 1, "ta", None)]
    found = reachable(Grammars(words).json_schema(schema), words, 30)
    assert found.keys() == {json.dumps(value, separators=(",", ":")).encode() for value in values}


@pytest.mark.parametrize("choices", [["yes", "no"], ['say "é"\n\\', "x"], ["a", "ab", "abc"]])
def test_choices_are_taken_letter_by_letter(tiny_model, choices):
    tokenizer = tiny_model.loaded.tokenizer
    grammar = Grammars(tokenizer).choice(choices)
    ways, found = [(grammar.begin(tokenizer), b"")], set()
    while ways:
        state, text = ways.pop()
        for token in np.flatnonzero(state.allowed()).tolist():
            if token == 257:
                found.add(text.decode())
            else:
                after = state.copy()
                after.advance(token)
                ways.append((after, text + bytes([token])))
    assert found == set(choices)


async def test_drawn_lines_follow_the_models_law_kept_within_the_language():
    pattern = "a(b|c){0,3}"
    toy = ToyLM(random_law(1, 4), "abc")
    texts = sorted(text.decode() for text in language(pattern, "abc", 4))

    def truth(line):
        """The log-probability of each step of ``line``: the model's, of those that leave a way."""
        steps = []
        for at in range(len(line) + 1):
            law = np.exp(toy.log_probs(toy.encode("a" + line[:at])))
            may = [any(t.startswith(line[:at] + c) for t in texts) for c in "abc"] + [line[:at] in texts]
            step = law[3] if at == len(line) else law["abc".index(line[at])]
            steps.append(math.log(step / law[np.array(may)].sum()))
        return steps

    assert sum(math.exp(sum(truth(text))) for text in texts) == pytest.approx(1)
    lm = toy.with_sampling(Sampling(seed=5, constraint=Grammars(toy).regex(pattern)))
    lines = await (await lm.root("a")).extend(60)
    for line in lines:
        assert line.finish == "stop" and line.ended and line.text in texts
        assert list(line.sample_log_probs) == pytest.approx(truth(line.text), abs=1e-5)
        assert list(line.log_probs) == pytest.approx(
            await (await toy.root("a")).score([*line.tokens]), abs=1e-5
        )  # the model's own
    assert len({line.text for line in lines}) > 3


NUMBERS = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 999}}, "required": ["n"]}


@pytest.fixture
def numbers(tiny_model):
    return Grammars(tiny_model.loaded.tokenizer).json_schema({**NUMBERS, "additionalProperties": False})


def is_number(text):
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return False
    return value.keys() == {"n"} and 0 <= value["n"] <= 999


async def test_the_engines_lines_are_of_the_language_whoever_else_is_there(make_tiny_model):
    many, few = make_tiny_model(), make_tiny_model(pages=12, max_sequences=3)
    found = []
    for model in (many, few):
        sampling = Sampling(seed=2, constraint=Grammars(model.loaded.tokenizer).json_schema(
            {**NUMBERS, "additionalProperties": False}))  # fmt: skip
        async with await model.session().root("a number") as root:
            free, lines = await asyncio.gather(root.extend(4, Until(30)), root.extend(6, Until(60), sampling))
            found.append([line.text for line in lines])
            assert all(line.finish == "stop" and is_number(line.completion) for line in lines)
        async with await model.session(sampling=Sampling(seed=2)).root("a number") as root:
            plain = await root.extend(4, Until(30))
            assert len(plain) == len(free)
    assert found[0] == found[1] and len(set(found[0])) > 2


async def test_one_by_one_a_bit_at_a_time_or_given_the_language_holds(tiny_model, numbers):
    sampling = Sampling(seed=3, constraint=numbers)
    async with await tiny_model.session(sampling=sampling).root("n") as root:
        together = [line.text for line in await root.extend(3, Until(60))]
    async with await tiny_model.session(sampling=sampling).root("n") as root:
        assert together == [(await root.extend(1, Until(60)))[0].text for _ in range(3)]
        [tip] = await root.extend(1, Until(1))
        while not tip.ended:
            [tip] = await tip.extend(1, Until(2), Sampling(seed=7, temperature=0.5))
        assert is_number(tip.full_text)
        [end] = await (await root.feed('{"n": 12')).extend(1, Until(60))
        assert is_number('{"n": 12' + end.completion)
        with pytest.raises(SamplingError, match="not allowed"):
            await (await root.feed("Well,")).extend(1, Until(5))
        with pytest.raises(SamplingError, match="ignore_eos"):
            await root.extend(1, Until(5, ignore_eos=True))
        free = await (await root.aside(Ledger())).extend(1, Until(5))
        assert not free[0].text.startswith("{")


async def test_a_line_that_is_cut_says_so(tiny_model, numbers):
    async with await tiny_model.session(sampling=Sampling(seed=1, constraint=numbers)).root("n") as root:
        [line] = await root.extend(1, Until(3))
        assert line.finish == "length" and not line.ended


ENDINGS = ["", "}", "1}", ": 1}", '": 1}', 'n": 1}', '"n": 1}', '{"n": 1}']


def may_become_a_number(text):
    return any(is_number(text + ending) for ending in ENDINGS)


@pytest.mark.parametrize(
    ("strategy", "verifier"),
    [("majority-vote", None), ("best-of-n", "likelihood"), ("step-beam", "likelihood"), ("greedy", None),
     ("mcts", "likelihood"), ("token-beam", None), ("adaptive-vote", None)],
)  # fmt: skip
def test_every_line_of_a_strategy_is_of_the_language(tiny_model, numbers, strategy, verifier):
    lm = tiny_model.session(sampling=Sampling(seed=4, constraint=numbers)).with_ledger(Ledger(Budget("400 tokens")))
    question = Question("a number", lambda text: text if is_number(text) else None)
    posterior = asyncio.run(think(question, lm, strategy, verifier))
    assert posterior.best is not None
    thoughts = [thought for thought in lm.tree.walk() if thought.text]
    assert thoughts
    for thought in thoughts:
        assert may_become_a_number("".join(above.text for above in thought.line())), strategy


async def test_what_cannot_be_spelled_fails_its_own_request_alone(tiny_model):
    grammar = Grammars(tiny_model.loaded.tokenizer).choice(["ab", "ac"])
    never = {ord("b"): -math.inf, ord("c"): -math.inf}
    async with await tiny_model.session().root("x") as root:
        stuck = Sampling(constraint=grammar, logit_bias=never)
        found = await asyncio.gather(root.extend(3, Until(9), stuck), root.extend(2, Until(20)), return_exceptions=True)
        assert isinstance(found[0], SamplingError) and "nothing to draw" in str(found[0])
        assert len(found[1]) == 2
        lines = await root.extend(2, Until(9), Sampling(constraint=grammar))
        assert all(line.completion in ("ab", "ac") for line in lines)


def test_what_is_refused():
    grammar = Grammars(LETTERS).regex("a")
    with pytest.raises(SamplingError, match="another tokenizer"):
        grammar.begin(CUTS)
    with pytest.raises(SamplingError, match="end token"):
        Grammars(Words([b"a"], ())).regex("a")
    with pytest.raises(CapabilityError, match="constraint"):
        Route("/completions").check(Sampling(constraint=grammar), Until(), "a server")


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"not": {"type": "string"}}, "not"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "nosuch"}, "type"),
        ({"type": "string", "format": "nosuch"}, "format"),
        ({"type": "string", "pattern": "(a"}, "patterns"),
        ({"type": "string", "pattern": "^(?=a)b"}, "patterns"),
        ({"$ref": "http://127.0.0.1:1/x"}, "another document"),
        ({"$ref": "file:///etc/passwd"}, "another document"),
        (False, "nothing satisfies"),
        ({"type": "object", "x-guidance": {"lenient": True}}, "x-guidance"),
        ("string", "object"),
    ],
)
def test_schemas_that_cannot_be_enforced_are_refused_in_our_words(schema, why):
    with pytest.raises(SamplingError, match=why):
        Grammars(LETTERS).json_schema(schema)


def test_schemas_nested_too_deep_are_refused():
    schema = {"type": "string"}
    for _ in range(10_000):
        schema = {"type": "array", "items": schema}
    with pytest.raises(SamplingError, match="deeper"):
        Grammars(LETTERS).json_schema(schema)


def test_the_bundled_tokenizer_is_read_byte_by_byte():
    tokenizer = Tokenizer.from_directory(BUNDLED / "outthink-m")
    grammar = Grammars(tokenizer).json_object()
    text = json.dumps({"Grüße 🙂": ["<|pad|> is plain text", 1.5e3, None, {"x": True}]}, ensure_ascii=False)
    state = grammar.begin(tokenizer)
    special = [i for i in range(tokenizer.vocab_size) if tokenizer.is_special(i)]
    for token in tokenizer.encode(text.replace("<|pad|>", "<")):
        allowed = state.allowed()
        assert allowed[token] and not allowed[special].any()
        state.advance(token)
    assert np.flatnonzero(state.allowed()).tolist() == list(tokenizer.eos_ids)
