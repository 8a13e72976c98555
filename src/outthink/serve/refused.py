"""Fields of the OpenAI API or vLLM that this server has no use for: refused by name unless they ask for nothing."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator
from pydantic_core import PydanticCustomError

_TEXT = "This server writes text"
_TOOLS = f"{_TEXT} and calls no tools."
_SOUND = f"{_TEXT} alone."


def _refused(why: str, *neutral: Any) -> Any:
    """A field that takes nothing, or what comes to that: null, ``neutral`` values, an empty list, object or text."""

    def check(sent: Any) -> None:
        empty = isinstance(sent, list | dict | str) and not sent
        if sent is None or empty or any(type(sent) is type(value) and sent == value for value in neutral):
            return
        raise PydanticCustomError("unsupported", "{why}", {"why": why})

    return Annotated[None, BeforeValidator(check, json_schema_input_type=None)]


def _elsewhere(field: str) -> str:
    return f"Not supported here; use {field}."


_CACHE = "What is cached is kept apart by API key, and nothing else."


class RefusedInGenerating(BaseModel):
    """Refused in completions and in chat."""

    use_beam_search: _refused("Not supported as an option; beam searches are strategies of thinking.", False) = None
    length_penalty: _refused("There is no beam search here that it could weigh.", 1.0, 1) = None
    early_stopping: _refused("There is no beam search here that it could stop.", False) = None
    min_tokens: _refused("A text ends where its model ends it.", 0) = None
    skip_special_tokens: _refused("Special tokens are never part of a text here.", True) = None
    spaces_between_special_tokens: _refused("Special tokens are never part of a text here.", True) = None
    truncate_prompt_tokens: _refused("Prompts are never cut: shorten it yourself.") = None
    prompt_logprobs: _refused(_elsewhere("/v1/completions with echo and logprobs")) = None
    allowed_token_ids: _refused(_elsewhere("structured_outputs, or logit_bias")) = None
    bad_words: _refused(_elsewhere("logit_bias")) = None
    logits_processors: _refused("Clients bring no code here.") = None
    guided_grammar: _refused(_elsewhere("a JSON schema, a regex or a choice")) = None
    guided_whitespace_pattern: _refused("Between tokens of JSON stands at most a space, or a new line and indent.") = (
        None
    )
    guided_decoding_backend: _refused("There is one backend.", "auto", "guidance", "llguidance") = None
    cache_salt: _refused(_CACHE) = None
    prompt_cache_key: _refused(_CACHE) = None
    prompt_cache_retention: _refused(_CACHE) = None
    kv_transfer_params: _refused("This server computes prompts itself.") = None
    vllm_xargs: _refused("There are no such arguments here.") = None
    service_tier: _refused("There is one tier.", "auto", "default") = None


class RefusedInChat(BaseModel):
    """Refused in chat."""

    tools: _refused(_TOOLS) = None
    tool_choice: _refused(_TOOLS, "none", "auto") = None
    functions: _refused(_TOOLS) = None
    function_call: _refused(_TOOLS, "none", "auto") = None
    parallel_tool_calls: _refused(_TOOLS, True, False) = None
    web_search_options: _refused(_TOOLS) = None
    modalities: _refused(_SOUND, ["text"]) = None
    audio: _refused(_SOUND) = None
    prediction: _refused("Predicted outputs are not supported.") = None
    verbosity: _refused("How much is said is up to the prompt.", "medium") = None
    chat_template: _refused("A model's own template is used.") = None
    chat_template_kwargs: _refused("A model's own template is used.") = None
    mm_processor_kwargs: _refused(f"{_TEXT} alone, and reads nothing else.") = None
    documents: _refused("Put documents into a message.") = None
    add_special_tokens: _refused("The template writes them.", False) = None
    echo: _refused("The prompt is not part of a chat's answer.", False) = None
    include_reasoning: _refused("Reasoning is part of the answer where there is any.", True) = None
    moderation: _refused("Nothing is moderated here.") = None


class RefusedInMessage(BaseModel):
    """Refused in a message of a chat."""

    tool_calls: _refused(_TOOLS) = None
    tool_call_id: _refused(_TOOLS) = None
    function_call: _refused(_TOOLS) = None
    refusal: _refused("Messages are text.") = None
    audio: _refused(f"{_TEXT} alone, and reads nothing else.") = None
    annotations: _refused("Messages are text.") = None


class RefusedInResponses(BaseModel):
    """Refused in ``/v1/responses``."""

    tools: _refused(_TOOLS) = None
    tool_choice: _refused(_TOOLS, "none", "auto") = None
    parallel_tool_calls: _refused(_TOOLS, True, False) = None
    max_tool_calls: _refused(_TOOLS) = None
    previous_response_id: _refused("Responses are not stored here: send the whole conversation as input.") = None
    conversation: _refused("Conversations are not stored here: send the whole of it as input.") = None
    background: _refused(_elsewhere("POST /v1/solves"), False) = None
    include: _refused("There is nothing to include.") = None
    prompt: _refused("Prompts are not stored here: send the text as input.") = None
    prompt_cache_key: _refused(_CACHE) = None
    prompt_cache_retention: _refused(_CACHE) = None
    service_tier: _refused("There is one tier.", "auto", "default") = None
    top_logprobs: _refused(_elsewhere("/v1/chat/completions"), 0) = None
    truncation: _refused("Prompts are never cut: shorten it yourself.", "disabled") = None
    stream_options: _refused("A stream of responses has no options.", {"include_obfuscation": False}) = None
    context_management: _refused("The whole input is read as it is.") = None
    moderation: _refused("Nothing is moderated here.") = None
