"""What clients may send. An unknown field is refused, so that no option is ever ignored in silence."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from outthink.serve.refused import RefusedInChat, RefusedInGenerating, RefusedInMessage, RefusedInResponses
from outthink.serve.terms import OnTerms

MAX_TOKEN_ID = 1 << 24
MAX_LENGTH = 1 << 20
Text = Annotated[str, StringConstraints(max_length=1 << 22)]
TokenId = Annotated[int, Field(ge=0, lt=MAX_TOKEN_ID)]
TokenIds = Annotated[list[TokenId], Field(max_length=MAX_LENGTH)]
StopText = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Stop = Annotated[list[StopText], Field(max_length=16)] | StopText
Seed = Annotated[int, Field(ge=-(1 << 63), lt=1 << 64)]
Note = Annotated[str, StringConstraints(max_length=512)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
OptionInt = Annotated[int, Field(strict=True, ge=-4096, le=4096)]
OptionFloat = Annotated[float, Field(ge=-1e6, le=1e6)]
OptionText = Annotated[str, StringConstraints(max_length=256)]
Option = bool | OptionInt | OptionFloat | OptionText | None
Effort = Literal["none", "minimal", "low", "medium", "high"]


class Strict(BaseModel):
    """A JSON object whose fields are all known and of their own type; numbers are finite."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)


def contradiction(field: str, why: str) -> PydanticCustomError:
    """The error of a request that says two things that exclude each other, one of them in ``field``."""
    return PydanticCustomError("contradiction", "{why}", {"why": why, "field": field})


class StreamOptions(Strict):
    """``include_usage``: one more chunk at the end, with the usage; ``continuous_usage_stats``: with every chunk what
    was used so far.
    """

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: Literal[False] | None = None


class Thinking(Strict):
    """How to think: the strategy, what it may spend, who judges, and when it may stop.

    ``budget`` as `outthink.Budget` reads it, or a number of tokens. ``confidence``: an adaptive strategy stops once it
    is this sure. ``options`` are the strategy's own.
    """

    strategy: Name | None = None
    budget: Annotated[str, StringConstraints(max_length=100)] | Annotated[int, Field(ge=1, le=1 << 40)] | None = None
    verifier: Name | None = None
    confidence: Annotated[float, Field(gt=0.5, lt=1)] | None = None
    options: Annotated[dict[Name, bool | OptionInt | OptionFloat | OptionText | None], Field(max_length=32)] = Field(
        default_factory=dict
    )


Schema = Annotated[dict[str, Any], Field(max_length=4096)]
Pattern = Annotated[str, StringConstraints(max_length=4096)]
Choices = Annotated[list[Annotated[str, StringConstraints(max_length=1024)]], Field(min_length=1, max_length=1024)]


class NamedSchema(Strict):
    """A JSON schema with a name. It is kept to the letter, ``strict`` or not."""

    name: Annotated[str, StringConstraints(max_length=64)] | None = None
    description: Annotated[str, StringConstraints(max_length=4096)] | None = None
    schema_: Annotated[Schema | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Strict):
    """Free text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _whole(self) -> ResponseFormat:
        if (self.json_schema is not None) != (self.type == "json_schema"):
            raise contradiction("json_schema", "it and its type go together")
        return self


class StructuredOutputs(Strict):
    """vLLM's way to say it: one of a JSON schema, a regular expression that the whole text matches, or a choice."""

    json_: Annotated[Schema | Text | None, Field(alias="json")] = None
    json_object: bool | None = None
    regex: Pattern | None = None
    choice: Choices | None = None


class Generating(RefusedInGenerating, OnTerms, Strict):
    """What completion and chat requests have in common."""

    model: Name | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_LENGTH)] | None = None
    n: Annotated[int, Field(ge=1, le=4096)] = 1
    temperature: Annotated[float, Field(ge=0, le=100)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1, le=MAX_TOKEN_ID)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] = 1.0
    logit_bias: Annotated[dict[Name, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)] | None = None
    seed: Seed | None = None
    stop: Stop | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] | None = None
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: Annotated[str, StringConstraints(max_length=512)] | None = None
    safety_identifier: Annotated[str, StringConstraints(max_length=512)] | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | Text | None = None
    guided_regex: Pattern | None = None
    guided_choice: Choices | None = None
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool = False
    # Some clients put this argument of their own library's call on the wire: its fields are the request's.
    extra_body: Annotated[dict[Name, Any], Field(max_length=64)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _unfold(cls, sent: Any) -> Any:
        extra = sent.get("extra_body") if isinstance(sent, dict) else None
        if not isinstance(extra, dict):
            return sent
        for name, value in extra.items():
            if name == "extra_body" or (name in sent and sent[name] != value):
                raise contradiction("extra_body", f"it says {name[:64]!r} otherwise than the request itself")
        return {**extra, **sent, "extra_body": None}

    @model_validator(mode="after")
    def _streamed(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise contradiction("stream_options", "it goes with stream: true")
        return self


class CompletionRequest(Generating):
    """``POST /v1/completions``."""

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=256)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=256)]
    )
    max_tokens: Annotated[int, Field(ge=0, le=MAX_LENGTH)] | None = 16
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=100)] | None = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None
    suffix: Literal[""] | None = None


class TextPart(Strict):
    """A piece of text within a message; in responses its type says whose."""

    type: Literal["text", "input_text", "output_text"]
    text: Text
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    logprobs: Annotated[list[Any], Field(max_length=0)] | None = None


class Message(RefusedInMessage, Strict):
    """One turn of a chat. A ``name`` and the reasoning of former turns are taken, since clients send them back, but no
    template here reads them.
    """

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(max_length=256)] | None = None
    name: Name | None = None
    reasoning: Text | None = None
    reasoning_content: Text | None = None

    def plain(self) -> dict[str, str]:
        """Role and text, as a chat template takes them."""
        parts = self.content or ""
        text = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatRequest(RefusedInChat, Generating):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_LENGTH)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    reasoning_effort: Effort | None = None
    thinking_token_budget: Annotated[int, Field(ge=1, le=1 << 40)] | None = None
    thinking: Thinking | None = None
    store: Literal[False] | None = None
    metadata: Annotated[dict[Name, Note], Field(max_length=16)] | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> ChatRequest:
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise contradiction("max_completion_tokens", "max_tokens, its former name, says otherwise")
        return self


class ReasoningOptions(Strict):
    """``reasoning`` of the Responses API. A ``summary`` is the winning line itself, whatever was asked for."""

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class TextFormat(NamedSchema):
    """``text.format`` of the Responses API: a `ResponseFormat` whose schema stands beside its type."""

    type: Literal["text", "json_object", "json_schema"]

    @model_validator(mode="after")
    def _whole(self) -> TextFormat:
        if (self.schema_ is not None) != (self.type == "json_schema"):
            raise contradiction("schema", "it and the type json_schema go together")
        return self


class TextOptions(Strict):
    """``text`` of the Responses API."""

    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None


class InputMessage(Message):
    """A message of the Responses API: what was said before comes back as it was answered."""

    type: Literal["message"] = "message"
    id: Name | None = None
    status: Literal["completed", "incomplete", "in_progress"] | None = None
    phase: Name | None = None


class ResponsesRequest(RefusedInResponses, OnTerms, Strict):
    """``POST /v1/responses``, without tools and stored conversations."""

    model: Name | None = None
    input: Text | Annotated[list[InputMessage], Field(min_length=1, max_length=4096)]
    instructions: Text | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=MAX_LENGTH)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    reasoning: ReasoningOptions | None = None
    thinking: Thinking | None = None
    stream: bool = False
    store: bool | None = None
    text: TextOptions | None = None
    seed: Seed | None = None
    metadata: Annotated[dict[Name, Note], Field(max_length=16)] | None = None
    user: Annotated[str, StringConstraints(max_length=512)] | None = None
    safety_identifier: Annotated[str, StringConstraints(max_length=512)] | None = None


class EmbeddingRequest(Strict):
    """``POST /v1/embeddings``."""

    model: Name | None = None
    input: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=256)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=256)]
    )
    encoding_format: Literal["float", "base64"] = "float"
    user: Annotated[str, StringConstraints(max_length=512)] | None = None


class TokenizeRequest(Strict):
    """``POST /tokenize``: a text, or messages through the chat template."""

    model: Name | None = None
    prompt: Text | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)] | None = None
    add_special_tokens: bool | None = None

    @model_validator(mode="after")
    def _templated(self) -> TokenizeRequest:
        if self.messages is not None and self.add_special_tokens:
            raise contradiction("add_special_tokens", "of messages the template writes them")
        return self


class DetokenizeRequest(Strict):
    """``POST /detokenize``."""

    model: Name | None = None
    tokens: TokenIds


class SolveRequest(OnTerms, Strict):
    """``POST /v1/solves``: a problem to think about, whether or not the client stays."""

    model: Name | None = None
    problem: Annotated[str, StringConstraints(min_length=1, max_length=1 << 20)]
    thinking: Thinking = Field(default_factory=Thinking)
    temperature: Annotated[float, Field(ge=0, le=100)] = 1.0
    seed: Seed | None = None
