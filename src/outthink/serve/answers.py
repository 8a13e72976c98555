"""What the routes answer, as the OpenAPI document says it. Where a shape is closed, nothing stands in it unsaid."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """A JSON object all of whose members are named."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetail(Answer):
    """What was wrong: ``param`` names the field at fault, ``code`` the kind of fault."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(Answer):
    """Every refusal and every failure."""

    error: ErrorDetail


class StatusAnswer(Answer):
    """``/health`` and ``/ready``."""

    status: Literal["ok", "ready"]


class VersionAnswer(Answer):
    """``/version``."""

    version: str


class ModelCard(Answer):
    """A model that is served. ``max_model_len``: the most positions of a line."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int | None = None


class ModelList(Answer):
    """``GET /v1/models``."""

    object: Literal["list"]
    data: list[ModelCard]


class PromptDetails(Answer):
    """How many prompt tokens were found in the cache."""

    cached_tokens: int


class CompletionDetails(Answer):
    """How many sampled tokens are not in the answer."""

    reasoning_tokens: int


class Usage(Answer):
    """Tokens; ``search_tokens``: sampled on all branches, where there was a search."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None
    search_tokens: int | None = None


class CompletionLogprobs(Answer):
    """Parallel lists, a member a token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Answer):
    """One completion of one prompt."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class Completion(Answer):
    """``POST /v1/completions``; streamed, each event is one too."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class TokenLogprob(Answer):
    """A token, its log-probability in nats, and its bytes."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprobs(TokenLogprob):
    """The same with the likeliest tokens at its place."""

    top_logprobs: list[TokenLogprob]


class ChatLogprobs(Answer):
    """An object a token."""

    content: list[TokenLogprobs]


class ChatAnswer(Answer):
    """The assistant's turn; ``reasoning`` and ``reasoning_content`` are the winning line, where there was a search."""

    role: Literal["assistant"]
    content: str
    reasoning: str | None = None
    reasoning_content: str | None = None


class ChatChoice(Answer):
    """One answer."""

    index: int
    message: ChatAnswer
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]
    token_ids: list[int] | None = None


class Cost(Answer):
    """A bill, as `outthink.Bill` has it."""

    tokens: int
    prefilled: int
    cached: int
    decoded: int
    flops: int
    seconds: float
    verifier_calls: int
    tool_calls: int
    verifier_tokens: int
    verifier_flops: int
    estimated: int


class PosteriorAnswer(BaseModel):
    """What a search came to: the law over answers, how it ended and what it cost; with its tree where asked for."""

    best: str | None
    confidence: float
    weights: dict[str, float]
    unassigned: float
    method: str
    stopped: str
    cost: Cost


class ChatCompletion(Answer):
    """``POST /v1/chat/completions``; ``thinking`` where the request asked for it."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_token_ids: list[int] | None = None
    thinking: PosteriorAnswer | None = None


class ResponseAnswer(BaseModel):
    """``POST /v1/responses``."""

    id: str
    object: Literal["response"]
    created_at: int
    model: str
    status: Literal["completed", "incomplete"]
    output: list[dict[str, Any]]
    usage: dict[str, Any]
    thinking: PosteriorAnswer | None = None


class EmbeddingEntry(Answer):
    """A vector of length 1: numbers, or base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class PromptUsage(Answer):
    """Tokens where nothing is generated."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(Answer):
    """``POST /v1/embeddings``."""

    object: Literal["list"]
    data: list[EmbeddingEntry]
    model: str
    usage: PromptUsage


class Tokens(Answer):
    """``POST /tokenize``."""

    tokens: list[int]
    count: int
    max_model_len: int


class PromptText(Answer):
    """``POST /detokenize``."""

    prompt: str


class SolveProgress(Answer):
    """How far a search is."""

    tokens: int
    seconds: float
    fraction_spent: float
    branches: int


class SolveAnswer(BaseModel):
    """A solve: where it stands; ``so_far`` while it runs, at the end the ``posterior`` or the ``error``."""

    id: str
    object: Literal["solve"]
    created: float
    status: Literal["queued", "running", "done", "failed", "cancelled"]
    problem: str
    thinking: dict[str, Any]
    temperature: float
    seed: int | None
    progress: SolveProgress | None = None
    so_far: dict[str, Any] | None = None
    posterior: PosteriorAnswer | None = None
    error: ErrorDetail | None = None
    deleted: bool = False


class SolveList(Answer):
    """The newest solves of a client."""

    object: Literal["list"]
    data: list[SolveAnswer]


class FileAnswer(Answer):
    """An uploaded file, or one that a batch wrote."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed"]


class DeletedFile(Answer):
    """A file that is gone."""

    id: str
    object: Literal["file"]
    deleted: Literal[True]


class BatchAnswer(BaseModel):
    """A batch: where it stands, and at its end the files with what became of its rows."""

    id: str
    object: Literal["batch"]
    endpoint: str
    input_file_id: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    request_counts: dict[str, int]


class FilePage(Answer):
    """A page of the files of a client."""

    object: Literal["list"]
    data: list[FileAnswer]
    first_id: str | None
    last_id: str | None
    has_more: bool


class BatchPage(Answer):
    """A page of the batches of a client."""

    object: Literal["list"]
    data: list[BatchAnswer]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ProblemAnswer(Answer):
    """A problem drawn at random."""

    family: str
    difficulty: float
    prompt: str
