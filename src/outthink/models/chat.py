"""Chat templates: the Jinja program by which a model's authors turn messages into a prompt.

Templates are code from a checkpoint, so they run in Jinja's immutable sandbox and see plain JSON data only. The
environment is that of transformers (trimmed blocks, loop controls, ``tojson`` without HTML escapes), so that prompts
are equal to its ``apply_chat_template``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from outthink.core.errors import CheckpointError, PromptError
from outthink.models.fields import read_json

# The longest templates in use are some 20 kB.
MAX_TEMPLATE_CHARS = 200_000
_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# What a Jinja program can raise: its own refusals, and those of the Python operations in it.
_TEMPLATE_FAILURES = (
    TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
)
_REASONING = ("reasoning_content", "thinking", "reasoning")


class ChatTemplate:
    """A compiled template. ``where`` names its file; ``special_tokens`` are the texts it may write (``bos_token``...).

    Raises CheckpointError where the source is too long or no valid Jinja.
    """

    def __init__(self, source: str, where: str, special_tokens: Mapping[str, str]) -> None:
        if len(source) > MAX_TEMPLATE_CHARS:
            raise CheckpointError(f"{where}: the template has {len(source)} characters; at most {MAX_TEMPLATE_CHARS}.")
        self.where, self.special_tokens = where, dict(special_tokens)
        try:
            self._template = _environment().from_string(source)
        except TemplateError as error:
            raise CheckpointError(f"{where}: not a valid Jinja template: {error}.") from error

    def render(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """The prompt for ``messages`` (dicts with ``role`` and ``content``), ending where the assistant's turn begins.

        ``variables`` (``tools``, ``documents``, ``enable_thinking``...) are passed to the template. Raises PromptError
        where they are no JSON data or the template refuses them.
        """
        given = {"tools": None, "documents": None, **variables, "messages": [_with_reasoning(m) for m in messages]}
        try:
            data = json.loads(json.dumps(given))
        except (TypeError, ValueError) as error:
            raise PromptError(f"Chat messages and template variables must be JSON data: {error}.") from error
        try:
            return self._template.render(
                **{**self.special_tokens, **data, "add_generation_prompt": add_generation_prompt}
            )
        except (
            TemplateError,
            TypeError,
            ValueError,
            LookupError,
            AttributeError,
            ArithmeticError,
            RuntimeError,
        ) as error:
            raise PromptError(f"The chat template {self.where} refused these messages: {error}.") from error


def load_chat_template(directory: Path) -> ChatTemplate | None:
    """The template of ``chat_template.jinja``, else of ``tokenizer_config.json``; None where there is neither."""
    config_file, template_file = directory / "tokenizer_config.json", directory / "chat_template.jinja"
    config = read_json(config_file) if config_file.is_file() else {}
    special = {name: text for name in _SPECIAL_TOKENS if (text := token_text(config.get(name))) is not None}
    if template_file.is_file():
        try:
            return ChatTemplate(template_file.read_text("utf-8"), str(template_file), special)
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{template_file}: not UTF-8 text.") from error
    source = config.get("chat_template")
    if isinstance(source, list):
        named = {t.get("name"): t.get("template") for t in source if isinstance(t, dict)}
        source = named.get("default")
        if source is None:
            raise CheckpointError(
                f"{config_file}: several chat templates ({', '.join(map(str, named))}), no 'default'."
            )
    if source is None:
        return None
    if not isinstance(source, str):
        raise CheckpointError(f"{config_file}: 'chat_template' is no string.")
    return ChatTemplate(source, str(config_file), special)


def token_text(token: Any) -> str | None:
    """The text of a special token as tokenizer_config.json writes it: a string, or an object with ``content``."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _with_reasoning(message: Mapping[str, Any]) -> dict[str, Any]:
    """``message`` with its reasoning under the name that templates read, whichever name it came by."""
    if not isinstance(message, Mapping):
        raise PromptError(f"A chat message must be an object with 'role' and 'content', not {message!r}.")
    reasoning = next((message[key] for key in _REASONING if message.get(key) is not None), None)
    if reasoning is None:
        return dict(message)
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension, _Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


class _Generation(Extension):
    """``{% generation %}`` marks what the assistant wrote, for training masks; here its body is simply rendered."""

    tags = {"generation"}  # noqa: RUF012 - Jinja reads a class attribute

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
