"""Chat prompts equal those of transformers' apply_chat_template; templates cannot reach out of their sandbox."""

import json
from pathlib import Path
from typing import Any

import pytest

from hf_models import make_tokenizer
from outthink.core.errors import CheckpointError, PromptError
from outthink.models.chat import MAX_TEMPLATE_CHARS, ChatTemplate
from outthink.models.tokenizer import Tokenizer

CHAT = [
    {"role": "user", "content": "  What is <12> & 'thirty'? 思考\n"},
    {"role": "assistant", "content": "42", "reasoning": "12 + 30"},
    {"role": "user", "content": "Sure?"},
]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"é": [1, 2.5, None, True]}}}]
# Each exercises something that transformers' environment adds to plain Jinja, or that depends on its settings.
TEMPLATES = {
    "trimming": "{% for m in messages %}\n  {% if m.role %}\n U: {{ m.content }}\n  {% endif %}\n{% endfor %}\n",
    "continue": "{% for m in messages %}{% if loop.index == 2 %}{% continue %}{% endif %}{{ m.role }};{% endfor %}",
    "break": "{% for m in messages %}{% if loop.index == 2 %}{% break %}{% endif %}{{ m.role }};{% endfor %}",
    "tojson": "{{ tools | tojson }}|{{ tools | tojson(indent=2) }}|{{ messages | tojson(sort_keys=True) }}",
    "special tokens": "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ messages[0]['content'] }}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}\n{% endfor %}",
    "reasoning": "{{ messages[1].reasoning_content }}{{ messages[1].thinking }}",
    "namespace": "{% set n = namespace(c=0) %}{% for m in messages %}{% set n.c = n.c + 1 %}{% endfor %}{{ n.c }}",
    "macro": "{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(messages[0].role) }}{{ dict(a=1) | tojson }}",
    "date": "{{ strftime_now('%Y') }}",
    "variables": "{% if enable_thinking is defined and not enable_thinking %}no{% endif %}{{ add_generation_prompt }}",
    "documents": "{% if documents %}{{ documents[0].text }}{% endif %}{% if tools is none %}none{% endif %}",
}


def both(template: str | None, directory: Path, **variables: Any) -> tuple[str, str]:
    fast = make_tokenizer()
    if template is not None:
        fast.chat_template = template
    fast.save_pretrained(directory)
    theirs = fast.apply_chat_template(CHAT, tokenize=False, **{"add_generation_prompt": True} | variables)
    return Tokenizer.from_directory(directory).render_chat(CHAT, **variables), theirs


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize(
    "variables",
    [{}, {"tools": TOOLS, "add_generation_prompt": False}, {"documents": [{"text": "d"}], "enable_thinking": False}],
    ids=["plain", "tools", "documents"],
)
def test_prompts_equal_those_of_transformers(name: str, variables: dict[str, Any], tmp_path: Path) -> None:
    ours, theirs = both(TEMPLATES[name], tmp_path, **variables)
    assert ours == theirs


def test_the_default_template_and_its_tokens(tmp_path: Path) -> None:
    ours, theirs = both(None, tmp_path, tools=TOOLS)
    assert ours == theirs
    assert ours.endswith("<|turn|>assistant\n")


def write(directory: Path, tokenizer_config: Any, template: str | None = None) -> Path:
    make_tokenizer().save_pretrained(directory)
    (directory / "chat_template.jinja").unlink()
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    if template is not None:
        (directory / "chat_template.jinja").write_text(template)
    return directory


def test_where_templates_are_found(tmp_path: Path) -> None:
    named = [{"name": "other", "template": "O"}, {"name": "default", "template": "D{{ bos_token }}"}]
    bos = {"bos_token": {"content": "<s>", "special": True}}
    assert Tokenizer.from_directory(write(tmp_path, {"chat_template": "C"})).render_chat(CHAT) == "C"
    assert Tokenizer.from_directory(write(tmp_path, {"chat_template": named} | bos)).render_chat(CHAT) == "D<s>"
    assert Tokenizer.from_directory(write(tmp_path, {"chat_template": "C"}, "J")).render_chat(CHAT) == "J"


def test_a_missing_template_is_a_prompt_error_that_says_what_to_add(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"no chat template \(chat_template\.jinja"):
        Tokenizer.from_directory(write(tmp_path, {})).render_chat(CHAT)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"chat_template": "{% if %}"}, "not a valid Jinja template"),
        ({"chat_template": "{{ 1 }"}, "not a valid Jinja template"),
        ({"chat_template": [{"name": "rag", "template": "x"}]}, "rag"),
        ({"chat_template": 3}, "no string"),
        ({"chat_template": "x" * (MAX_TEMPLATE_CHARS + 1)}, "at most"),
    ],
)
def test_malformed_templates_are_refused_when_loading(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json") as error:
        Tokenizer.from_directory(write(tmp_path, config))
    assert message in str(error.value)


def test_a_template_that_is_no_text_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {})
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="not UTF-8"):
        Tokenizer.from_directory(tmp_path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[9].content }}", "no element 9"),
        ("{{ messages[0].content + 1 }}", "str"),
        ("{{ 1 / 0 }}", "division"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "'append' of 'list' object is unsafe"),
        ("{{ (strftime_now | attr('__globals__')).sys }}", "'__globals__'"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    ],
)
def test_refusals_and_breakouts_are_prompt_errors(source: str, message: str) -> None:
    with pytest.raises(PromptError, match=r"The chat template t\.jinja refused") as error:
        ChatTemplate(source, "t.jinja", {}).render(CHAT)
    assert message in str(error.value)


@pytest.mark.parametrize("messages", [["hello"], [{"role": "user", "content": object()}], [{"role": b"x"}]])
def test_messages_must_be_json_objects(messages: list[Any]) -> None:
    with pytest.raises(PromptError):
        ChatTemplate("{{ messages }}", "t.jinja", {}).render(messages)


def test_rendering_leaves_the_messages_alone() -> None:
    chat = [{"role": "user", "content": "a", "reasoning": "b"}]
    ChatTemplate("{{ messages }}", "t.jinja", {}).render(chat)
    assert chat == [{"role": "user", "content": "a", "reasoning": "b"}]
