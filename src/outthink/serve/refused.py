"""Fields of the OpenAI API or vLLM that this server has no use for: refused by name unless they ask for nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

_TEXT = "This server writes text"
_TOOLS = f"{_TEXT} and calls no tools."
_SOUND = f"{_TEXT} alone."


@dataclass(frozen=True)
class Unsupported:
    """A field that takes nothing, or what comes to that: null, a ``neutral`` value, an empty list, object or text.

    ``empty_asks``: an empty object asks for something too: for all that it could say, as it is by default.
    """

    why: str
    neutral: tuple[Any, ...] = ()
    empty_asks: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._check, core_schema.none_schema())

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"enum": [None, *self._empty, *self.neutral]}

    @property
    def _empty(self) -> tuple[Any, ...]:
        return () if self.empty_asks else ([], {}, "")

    def _check(self, sent: Any) -> None:
        if sent is not None and not any(_same(sent, value) for value in (*self._empty, *self.neutral)):
            raise PydanticCustomError("unsupported", "{why}", {"why": self.why})


def _same(sent: Any, value: Any) -> bool:
    return sent == value and isinstance(sent, bool) == isinstance(value, bool)


def _elsewhere(field: str) -> str:
    return f"Not supported here; use {field}."


_CACHE = "What is cached is kept apart by API key, and nothing else."


_ToolChoice = Annotated[None, Unsupported(_TOOLS, ("none", "auto"))]
_ToolsAtOnce = Annotated[None, Unsupported(_TOOLS, (True, False))]


class RefusedInGenerating(BaseModel):
    """Refused in completions and in chat."""

    use_beam_search: Annotated[
        None, Unsupported("Not supported as an option; beam searches are strategies of thinking.", (False,))
    ] = None
    length_penalty: Annotated[None, Unsupported("There is no beam search here that it could weigh.", (1.0,))] = None
    early_stopping: Annotated[None, Unsupported("There is no beam search here that it could stop.", (False,))] = None
    min_tokens: Annotated[None, Unsupported("A text ends where its model ends it.", (0,))] = None
    skip_special_tokens: Annotated[None, Unsupported("Special tokens are never part of a text here.", (True,))] = None
    spaces_between_special_tokens: Annotated[
        None, Unsupported("Special tokens are never part of a text here.", (True,))
    ] = None
    truncate_prompt_tokens: Annotated[None, Unsupported("Prompts are never cut: shorten it yourself.")] = None
    prompt_logprobs: Annotated[None, Unsupported(_elsewhere("/v1/completions with echo and logprobs"))] = None
    allowed_token_ids: Annotated[None, Unsupported(_elsewhere("structured_outputs, or logit_bias"))] = None
    bad_words: Annotated[None, Unsupported(_elsewhere("logit_bias"))] = None
    logits_processors: Annotated[None, Unsupported("Clients bring no code here.")] = None
    guided_grammar: Annotated[None, Unsupported(_elsewhere("a JSON schema, a regex or a choice"))] = None
    guided_whitespace_pattern: Annotated[
        None, Unsupported("Between tokens of JSON stands at most a space, or a new line and indent.")
    ] = None
    guided_decoding_backend: Annotated[
        None,
        Unsupported(
            "There is one backend.",
            (
                "auto",
                "guidance",
                "llguidance",
            ),
        ),
    ] = None
    cache_salt: Annotated[None, Unsupported(_CACHE)] = None
    prompt_cache_key: Annotated[None, Unsupported(_CACHE)] = None
    prompt_cache_retention: Annotated[None, Unsupported(_CACHE)] = None
    kv_transfer_params: Annotated[None, Unsupported("This server computes prompts itself.")] = None
    vllm_xargs: Annotated[None, Unsupported("There are no such arguments here.")] = None
    service_tier: Annotated[
        None,
        Unsupported(
            "There is one tier.",
            (
                "auto",
                "default",
            ),
        ),
    ] = None


class RefusedInChat(BaseModel):
    """Refused in chat."""

    tools: Annotated[None, Unsupported(_TOOLS)] = None
    tool_choice: _ToolChoice = None
    functions: Annotated[None, Unsupported(_TOOLS)] = None
    function_call: _ToolChoice = None
    parallel_tool_calls: _ToolsAtOnce = None
    web_search_options: Annotated[None, Unsupported(_TOOLS, empty_asks=True)] = None
    modalities: Annotated[None, Unsupported(_SOUND, (["text"],))] = None
    audio: Annotated[None, Unsupported(_SOUND, empty_asks=True)] = None
    prediction: Annotated[None, Unsupported("Predicted outputs are not supported.")] = None
    verbosity: Annotated[None, Unsupported("How much is said is up to the prompt.", ("medium",))] = None
    chat_template: Annotated[None, Unsupported("A model's own template is used.")] = None
    chat_template_kwargs: Annotated[None, Unsupported("A model's own template is used.")] = None
    mm_processor_kwargs: Annotated[None, Unsupported(f"{_TEXT} alone, and reads nothing else.")] = None
    documents: Annotated[None, Unsupported("Put documents into a message.")] = None
    add_special_tokens: Annotated[None, Unsupported("The template writes them.", (False,))] = None
    echo: Annotated[None, Unsupported("The prompt is not part of a chat's answer.", (False,))] = None
    include_reasoning: Annotated[None, Unsupported("Reasoning is part of the answer where there is any.", (True,))] = (
        None
    )
    moderation: Annotated[None, Unsupported("Nothing is moderated here.")] = None


class RefusedInMessage(BaseModel):
    """Refused in a message of a chat."""

    tool_calls: Annotated[None, Unsupported(_TOOLS)] = None
    tool_call_id: Annotated[None, Unsupported(_TOOLS)] = None
    function_call: Annotated[None, Unsupported(_TOOLS)] = None
    refusal: Annotated[None, Unsupported("Messages are text.")] = None
    audio: Annotated[None, Unsupported(f"{_TEXT} alone, and reads nothing else.")] = None
    annotations: Annotated[None, Unsupported("Messages are text.")] = None


class RefusedInResponses(BaseModel):
    """Refused in ``/v1/responses``."""

    tools: Annotated[None, Unsupported(_TOOLS)] = None
    tool_choice: _ToolChoice = None
    parallel_tool_calls: _ToolsAtOnce = None
    max_tool_calls: Annotated[None, Unsupported(_TOOLS)] = None
    previous_response_id: Annotated[
        None, Unsupported("Responses are not stored here: send the whole conversation as input.")
    ] = None
    conversation: Annotated[None, Unsupported("Conversations are not stored here: send the whole of it as input.")] = (
        None
    )
    background: Annotated[None, Unsupported(_elsewhere("POST /v1/solves"), (False,))] = None
    include: Annotated[None, Unsupported("There is nothing to include.")] = None
    prompt: Annotated[None, Unsupported("Prompts are not stored here: send the text as input.")] = None
    prompt_cache_key: Annotated[None, Unsupported(_CACHE)] = None
    prompt_cache_retention: Annotated[None, Unsupported(_CACHE)] = None
    service_tier: Annotated[
        None,
        Unsupported(
            "There is one tier.",
            (
                "auto",
                "default",
            ),
        ),
    ] = None
    top_logprobs: Annotated[None, Unsupported(_elsewhere("/v1/chat/completions"), (0,))] = None
    truncation: Annotated[None, Unsupported("Prompts are never cut: shorten it yourself.", ("disabled",))] = None
    stream_options: Annotated[
        None, Unsupported("A stream of responses has no options.", ({"include_obfuscation": False},))
    ] = None
    context_management: Annotated[None, Unsupported("The whole input is read as it is.")] = None
    moderation: Annotated[None, Unsupported("Nothing is moderated here.")] = None
