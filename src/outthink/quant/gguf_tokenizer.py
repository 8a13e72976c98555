"""Byte-level BPE tokenizers in GGUF's metadata: a tokenizer.json as llama.cpp's keys, and those keys as one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from outthink.core.errors import CheckpointError

TOKENIZER_JSON = "tokenizer.json"
WHOLE = "tokenizer.huggingface.json"
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_OUTTHINK = r" ?\p{L}+|\p{N}| ?[()\[\]{}]| ?[^\s\p{L}\p{N}()\[\]{}]+ ?|\s"
# llama.cpp's names of the regular expressions that cut text into words. It has none that keeps the space after an
# operator with it, as the bundled models do; this one cuts at digits alone and leaves the rest to the merges, which
# comes to the same but where a word begins after a symbol and a space.
_CUTS = {_QWEN2: "qwen2", _LLAMA3: "llama-bpe", _OUTTHINK: "superbpe"}
_DEFAULT_CUT = "gpt-2"
_PATTERNS = {"qwen2": _QWEN2, "llama-bpe": _LLAMA3, "llama3": _LLAMA3, "llama-v3": _LLAMA3, "gpt-2": None}


def tokenizer_metadata(directory: Path, config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    """GGUF's ``tokenizer.*`` keys for the tokenizer.json ``tokenizer`` of the model in ``directory``.

    Raises CheckpointError for a tokenizer that is no byte-level BPE.
    """
    model, file = tokenizer.get("model") or {}, directory / TOKENIZER_JSON
    if model.get("type", "BPE") != "BPE" or model.get("byte_fallback") or not isinstance(model.get("vocab"), dict):
        raise CheckpointError(f"{file}: only byte-level BPE tokenizers are written to GGUF.")
    tokens, types = _tokens(tokenizer, int(config["vocab_size"]), file)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges", [])]
    made: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": _CUTS.get(_pattern(tokenizer) or "", _DEFAULT_CUT),
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.add_bos_token": _begins_with(tokenizer, config.get("bos_token_id")),
        WHOLE: json.dumps(tokenizer, ensure_ascii=False),
    }
    if merges:
        made["tokenizer.ggml.merges"] = merges
    for name, key in (("bos", "bos_token_id"), ("eos", "eos_token_id"), ("padding", "pad_token_id")):
        value = config.get(key)
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, int):
            made[f"tokenizer.ggml.{name}_token_id"] = value
    template = directory / "chat_template.jinja"
    if template.is_file():
        made["tokenizer.chat_template"] = template.read_text("utf-8")
    return made


def read_tokenizer(
    metadata: Mapping[str, Any], config: Mapping[str, Any], where: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tokenizer.json and tokenizer_config.json of GGUF's keys.

    The whole tokenizer.json where the file has it, else one made of tokens and merges, where the file says a way of
    cutting text into words that is known. Raises CheckpointError where it has or says neither.
    """
    whole = metadata.get(WHOLE)
    made = _from_tokens(metadata, where) if whole is None else _read_object(whole, where)
    vocabulary = {index: text for text, index in made["model"]["vocab"].items()}
    vocabulary |= {token["id"]: token["content"] for token in made.get("added_tokens") or []}
    ends = config.get("eos_token_id") or [None]
    named = {"eos_token": vocabulary.get(ends[0]), "bos_token": vocabulary.get(config.get("bos_token_id"))}
    return made, {"tokenizer_class": "PreTrainedTokenizerFast", **{k: v for k, v in named.items() if v is not None}}


def _read_object(text: Any, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: '{WHOLE}' is not valid JSON: {error}.") from error
    match value:
        case {"model": {"vocab": {**vocab}}} if all(type(index) is int for index in vocab.values()):
            added = value.get("added_tokens") or []
        case _:
            raise CheckpointError(f"{where}: '{WHOLE}' is no tokenizer with a vocabulary.")
    for token in added if isinstance(added, list) else [added]:
        match token:
            case {"id": int(), "content": str()}:
                pass
            case _:
                raise CheckpointError(f"{where}: '{WHOLE}' has an added token without id and content.")
    return value


def _from_tokens(metadata: Mapping[str, Any], where: str) -> dict[str, Any]:
    kind, cut = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre", "gpt-2")
    tokens, merges = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.merges")
    types = metadata.get("tokenizer.ggml.token_type") or [_NORMAL] * len(tokens or [])
    if kind != "gpt2" or cut not in _PATTERNS or not tokens or not merges:
        raise CheckpointError(
            f"{where} does not carry a tokenizer that can be rebuilt (its kind is {kind!r}, cut as {cut!r}): give the "
            "directory of the model's tokenizer.json."
        )
    pairs = [merge.split(" ") if isinstance(merge, str) else [] for merge in merges]
    good = all(isinstance(token, str) for token in tokens) and all(len(pair) == 2 for pair in pairs)
    if not good or len(types) != len(tokens) or len(set(tokens)) != len(tokens):
        raise CheckpointError(f"{where}: malformed 'tokenizer.ggml' tokens, types or merges.")
    added = [
        {
            "id": index,
            "content": token,
            "special": kind == _CONTROL,
            **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
        }
        for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    pattern = _PATTERNS[cut]
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": pattern is None}
    steps = (
        [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}] if pattern else []
    )
    vocab = {token: i for i, (token, t) in enumerate(zip(tokens, types, strict=True)) if t not in (_UNUSED,)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*steps, to_bytes]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocab,
            "merges": pairs,
        },
    }


def _tokens(tokenizer: Mapping[str, Any], vocab_size: int, file: Path) -> tuple[list[str], list[int]]:
    """Token texts and types by id; ids without a token get one that no text contains."""
    by_id = {index: (text, _NORMAL) for text, index in tokenizer["model"]["vocab"].items()}
    for token in tokenizer.get("added_tokens") or []:
        by_id[token["id"]] = token["content"], _CONTROL if token.get("special") else _USER_DEFINED
    if by_id and max(by_id) >= vocab_size:
        raise CheckpointError(f"{file} has ids up to {max(by_id)}, beyond the model's vocabulary of {vocab_size}.")
    rows = [by_id.get(index, (f"[PAD{index}]", _UNUSED)) for index in range(vocab_size)]
    return [text for text, _ in rows], [kind for _, kind in rows]


def _pattern(tokenizer: Mapping[str, Any]) -> str | None:
    """The regular expression by which text is cut into words, where there is just one."""
    cut = tokenizer.get("pre_tokenizer") or {}
    steps = cut.get("pretokenizers", []) if cut.get("type") == "Sequence" else [cut]
    patterns = [step["pattern"].get("Regex") for step in steps if step.get("type") == "Split"]
    return patterns[0] if len(patterns) == 1 else None


def _begins_with(tokenizer: Mapping[str, Any], bos_id: int | None) -> bool:
    """Whether encoding a text puts the token ``bos_id`` before it."""
    template = (tokenizer.get("post_processor") or {}).get("single") or []
    return bos_id is not None and bool(template) and "SpecialToken" in template[0]
