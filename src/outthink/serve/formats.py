"""What a client wants an answer to look like, and the constraint that sees to it.

A grammar is tried out in a process of its own before it is compiled here: what takes too long or too much memory there
is refused.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outthink.core.errors import SamplingError
from outthink.lm.grammar import LIMITS, Grammar, Grammars, choice_grammar, regex_grammar, schema_grammar, trouble
from outthink.models.tokenizer import Tokenizer
from outthink.serve.failures import ApiError
from outthink.serve.gate import Gate
from outthink.serve.schema import Generating, ResponseFormat, StructuredOutputs, TextFormat

TRIAL = Path(__file__).with_name("grammar_trial.py")
MAX_BYTES = 64 << 10
CPU_SECONDS = 3
MEMORY_BYTES = 2 << 30
WAIT_SECONDS = 60.0
TRIALS, TRIALS_EACH = 3, 2
"""Grammars that are tried at once, and of them those of one tenant: whoever tries bad ones leaves others a place."""
ANY_OBJECT = {"type": "object"}
_KEPT = 512


@dataclass(frozen=True)
class Format:
    """A form of texts: a ``schema`` (of JSON), ``regex`` or ``choice``. ``param`` names the field it is in."""

    kind: str
    value: Any
    param: str

    @property
    def is_json(self) -> bool:
        return self.kind == "schema"


def format_of(request: Generating) -> Format | None:
    """The form that a request wants its texts in; None for free text. Raises ApiError 400 for several."""
    outputs = request.structured_outputs or StructuredOutputs()
    response = request.response_format or ResponseFormat(type="text")
    named = response.json_schema.schema_ if response.json_schema is not None else None
    said = {
        ("schema", "response_format"): None if response.type == "text" else ANY_OBJECT if named is None else named,
        ("schema", "structured_outputs"): outputs.json_,
        ("schema", "structured_outputs.json_object"): ANY_OBJECT if outputs.json_object else None,
        ("regex", "structured_outputs.regex"): outputs.regex,
        ("choice", "structured_outputs.choice"): outputs.choice,
        ("schema", "guided_json"): request.guided_json,
        ("regex", "guided_regex"): request.guided_regex,
        ("choice", "guided_choice"): request.guided_choice,
    }
    found = [Format(kind, value, param) for (kind, param), value in said.items() if value is not None]
    if len(found) > 1:
        both = f"{found[0].param} and {found[1].param}"
        raise ApiError(400, f"{both} both say what a text is to be: give one of them.", param=found[1].param)
    return found[0] if found else None


def text_format(wanted: TextFormat | None) -> Format | None:
    """The same for ``text.format`` of the Responses API."""
    if wanted is None or wanted.type == "text":
        return None
    return Format("schema", wanted.schema_ if wanted.type == "json_schema" else ANY_OBJECT, "text.format")


class Formats:
    """Makes constraints of formats, for one tokenizer. To be used within one event loop."""

    def __init__(self, tokenizer: Tokenizer, cpu_seconds: int = CPU_SECONDS) -> None:
        self._grammars, self._cpu_seconds = Grammars(tokenizer), cpu_seconds
        self._room = Gate(TRIALS, max_each=TRIALS_EACH)
        self._tried: defaultdict[str, OrderedDict[bytes, str]] = defaultdict(OrderedDict)

    async def constraint(self, tenant: str, wanted: Format) -> Grammar:
        """The constraint that keeps texts in the form ``wanted``. What is known of forms is known of a tenant's own.

        Raises ApiError 400 for one that cannot be kept, and TimeoutError where there is no time to find out.
        """
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                grammar = await asyncio.to_thread(_grammar, wanted)
                async with self._room.admitted(tenant):
                    if against := await self._against(tenant, grammar):
                        raise ApiError(400, f"This format cannot be enforced: {against}.", param=wanted.param)
                    return await asyncio.to_thread(self._grammars.compile, grammar)
        except SamplingError as error:
            raise ApiError(400, str(error), param=wanted.param) from error

    async def _against(self, tenant: str, grammar: str) -> str:
        """What there is against ``grammar``; nothing for a sound one. Found out once for each tenant: time would tell
        one which forms another asks for.
        """
        key, tried = hashlib.blake2b(grammar.encode(), digest_size=16).digest(), self._tried[tenant]
        if key not in tried:
            tried[key] = await self._try_out(grammar)
            if len(tried) > _KEPT:
                tried.popitem(last=False)
        tried.move_to_end(key)
        return tried[key]

    async def _try_out(self, grammar: str) -> str:
        asked = {"grammar": grammar, "limits": LIMITS}
        asked |= {"cpu_seconds": self._cpu_seconds, "memory_bytes": MEMORY_BYTES}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", str(TRIAL),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={},
        )  # fmt: skip
        try:
            said, _ = await process.communicate(json.dumps(asked).encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            return "it is too large or too costly"
        return trouble(said.decode(errors="replace")) if said else ""


def answer_reader(wanted: Format, grammar: Grammar) -> Callable[[str], str | None]:
    """What reads an answer out of a text: the text itself if it is of the form, JSON in one spelling for equal values;
    None for a text that is not, or not yet.
    """

    def read(text: str) -> str | None:
        if not grammar.accepts(text):
            return None
        return json.dumps(json.loads(text), ensure_ascii=False) if wanted.is_json else text

    return read


def _grammar(wanted: Format) -> str:
    makers: dict[str, Callable[[Any], str]] = {
        "schema": schema_grammar,
        "regex": regex_grammar,
        "choice": choice_grammar,
    }
    value = _schema(wanted.value) if wanted.kind == "schema" else wanted.value
    grammar = makers[wanted.kind](value)
    if len(grammar) > MAX_BYTES:
        raise SamplingError(f"The format takes {len(grammar):,} characters, and at most {MAX_BYTES:,} are allowed.")
    return grammar


def _schema(value: dict[str, Any] | str) -> Any:
    """A schema that may have come as JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise SamplingError("The JSON schema was sent as a text that is no JSON.") from error
