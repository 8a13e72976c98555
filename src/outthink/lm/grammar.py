"""Constraints from JSON schemas, regular expressions and lists of choices, by way of llguidance.

Masks are exact: a token is allowed where, and only where, what it spells can still become a text of the language,
whichever way a tokenizer would have cut that text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from outthink.core.errors import CapabilityError, SamplingError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MAX_DEPTH = 32
_EXACT = '%llguidance {"no_forcing": true}\nstart: '  # else forced text could be spelled in one way alone
_SPACE = "( |\\n[ \\t]{0,40})?"  # unbounded, it is where a model that lost its way goes round for ever
LIMITS: Mapping[str, Any] = {
    "max_lexer_states": 50_000,  # 1 to 2 kB each
    "max_grammar_size": 200_000,
    "verbose_errors": False,
}
_TROUBLE = {  # what of llguidance's own words says which of ours
    r"Unimplemented keys: (\[[^\]]*\])": "its keywords {0} are not supported",
    r"oneOf constraints are not supported": "oneOf is supported only where no value fits two of its members; use anyOf",
    r"Unsatisfiable schema|NoExtension": "nothing satisfies it",
    r"Unknown format": "it names an unknown format",
    r"Invalid type": "it names an unknown type",
    r"regex for (integer|float) range": "the bounds of a number are too far apart",
    r"not disjoint|are not disj": "the patterns of its patternProperties overlap",
    r"Resource '": "it refers to another document",
    r"regex parse error|look-around|backreference": (
        "one of its patterns is no regular expression of the kind supported (no look-around, no back-references)"
    ),
    r"too (large|many|big)|limit|max is|fuel|TooComplex|complex": "it is too large or too costly",
}


class Vocabulary(Protocol):
    """What is asked of a tokenizer; `outthink.models.Tokenizer` has it."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def eos_ids(self) -> Sequence[int]: ...

    def token_bytes(self, token_id: int, /) -> bytes: ...

    def is_special(self, token_id: int, /) -> bool: ...

    def encode(self, text: str, /) -> Sequence[int]: ...


class Grammars:
    """Makes constraints for one tokenizer. Safe to share among threads.

    Each constraint has tables of its own, which grow as it is used, within limits: make a new one for each piece of
    work. All of the methods raise SamplingError for a language that cannot be enforced, and CapabilityError where
    llguidance is not installed.
    """

    def __init__(self, tokenizer: Vocabulary) -> None:
        self.tokenizer = tokenizer

    def json_schema(self, schema: dict[str, Any] | bool) -> Grammar:
        """JSON texts that satisfy a JSON schema; between tokens stands at most a space, or a line's end and an indent.

        Properties come in the order in which the schema names them.
        """
        return self.compile(schema_grammar(schema))

    def json_object(self) -> Grammar:
        """Any JSON object."""
        return self.json_schema({"type": "object"})

    def regex(self, pattern: str) -> Grammar:
        """Texts that a regular expression matches whole; in Rust's syntax, without look-around and back-references."""
        return self.compile(regex_grammar(pattern))

    def choice(self, texts: Iterable[str]) -> Grammar:
        """Exactly one of ``texts``."""
        return self.compile(choice_grammar(texts))

    def compile(self, grammar: str) -> Grammar:
        """The texts of a grammar in llguidance's variant of Lark."""
        library = _llguidance()
        limits = library.LLParserLimits(**LIMITS)
        matcher = library.LLMatcher(self._tokens, grammar, log_level=0, limits=limits)
        _refuse_if_broken(matcher, "This grammar")
        return Grammar(self.tokenizer, matcher)

    @cached_property
    def _tokens(self) -> LLTokenizer:
        if not self.tokenizer.eos_ids:
            raise SamplingError("A constraint needs a tokenizer with an end token: without one no text could end.")
        return _llguidance().LLTokenizer(_Words(self.tokenizer), eos_token=list(self.tokenizer.eos_ids))


@dataclass(frozen=True, eq=False)
class Grammar:
    """A compiled language; see `Constraint`. Make one with `Grammars`."""

    tokenizer: Vocabulary
    matcher: LLMatcher

    def begin(self, tokenizer: Any) -> GrammarState:
        """See `Constraint.begin`."""
        if tokenizer is not self.tokenizer and _print(tokenizer) != _print(self.tokenizer):
            raise SamplingError("This constraint was made for another tokenizer: make one with Grammars(tokenizer).")
        return GrammarState(self.matcher.deep_copy(), self.tokenizer.vocab_size)

    def accepts(self, text: str) -> bool:
        """Whether ``text`` is of the language, the whole of it."""
        matcher = self.matcher.deep_copy()
        return matcher.consume_tokens(list(self.tokenizer.encode(text))) and matcher.is_accepting()


class GrammarState:
    """How far into a grammar a text is; see `ConstraintState`."""

    __slots__ = ("_matcher", "_size")

    def __init__(self, matcher: LLMatcher, size: int) -> None:
        self._matcher, self._size = matcher, size

    def allowed(self) -> NDArray[np.bool_]:
        """See `ConstraintState.allowed`."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        _refuse_if_broken(self._matcher, "The constraint")
        return np.unpackbits(bits, count=self._size, bitorder="little").view(np.bool_)

    def advance(self, token: int) -> None:
        """See `ConstraintState.advance`."""
        if not self._matcher.consume_token(int(token)):
            raise SamplingError(
                f"Token {token} is not allowed by the constraint at this place: what is given, or was written without "
                "the constraint, must keep it too."
            )

    def copy(self) -> GrammarState:
        """See `ConstraintState.copy`."""
        return GrammarState(self._matcher.deep_copy(), self._size)


class _Words:
    """A tokenizer as llguidance reads it: the bytes of every token."""

    is_tokenizer_wrapper, bos_token_id = True, None

    def __init__(self, tokenizer: Vocabulary) -> None:
        ids = range(tokenizer.vocab_size)
        self.tokens = [tokenizer.token_bytes(i) for i in ids]
        self.eos_token_id = tokenizer.eos_ids[0]
        self.special_token_ids = [i for i in ids if tokenizer.is_special(i) or i in tokenizer.eos_ids]

    def __call__(self, text: bytes) -> list[int]:
        raise AssertionError("nothing is forced, so nothing is tokenized")


def schema_grammar(schema: dict[str, Any] | bool) -> str:
    """The grammar of `Grammars.json_schema`. Raises SamplingError for what is no schema, or nested too deep."""
    if not isinstance(schema, dict | bool):
        raise SamplingError(f"A JSON schema is an object, and {schema!r:.80} is none.")
    if _depth(schema) > MAX_DEPTH:
        raise SamplingError(f"The JSON schema is nested deeper than {MAX_DEPTH}.")
    if schema is False:
        raise SamplingError("The JSON schema cannot be enforced: nothing satisfies it.")
    wanted = {} if schema is True else schema
    if "x-guidance" in wanted:
        raise SamplingError("The JSON schema has the key x-guidance, which is no part of JSON schema.")
    options = {"whitespace_flexible": True, "whitespace_pattern": _SPACE}
    return f"{_EXACT}%json {json.dumps({**wanted, 'x-guidance': options})}"


def regex_grammar(pattern: str) -> str:
    """The grammar of `Grammars.regex`."""
    said = _llguidance().LLMatcher.grammar_from_regex(pattern)
    return json.loads(said)["grammars"][0]["lark_grammar"].replace("start: ", _EXACT, 1)


def choice_grammar(texts: Iterable[str]) -> str:
    """The grammar of `Grammars.choice`. Raises SamplingError for no texts."""
    found = list(dict.fromkeys(texts))
    if not found:
        raise SamplingError("A choice needs at least one text to choose.")
    return _EXACT + " | ".join(json.dumps(text, ensure_ascii=False) for text in found)


def trouble(words: str) -> str:
    """What is wrong, in our words, after llguidance's."""
    for pattern, ours in _TROUBLE.items():
        if found := re.search(pattern, words):
            return ours.format(*found.groups())
    return "it is malformed"


def _llguidance() -> Any:
    try:
        import llguidance
    except ModuleNotFoundError as error:
        raise CapabilityError("Constraints need llguidance: pip install 'outthink[serve]'.") from error
    return llguidance


def _refuse_if_broken(matcher: LLMatcher, what: str) -> None:
    if matcher.is_error():
        raise SamplingError(f"{what} cannot be enforced: {trouble(matcher.get_error())}.")


def _depth(value: Any, limit: int = MAX_DEPTH + 1) -> int:
    """How deep ``value`` is nested, as far as ``limit``."""
    deep, level = 0, [value]
    while level and deep < limit:
        deep += 1
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
    return deep


def _print(tokenizer: Any) -> Any:
    return getattr(tokenizer, "fingerprint", tokenizer)
