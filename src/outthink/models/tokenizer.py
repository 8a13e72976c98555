"""Text to token ids and back, from a tokenizer.json; and the exact bytes behind each token."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from outthink.core.errors import CheckpointError, PromptError
from outthink.models.chat import ChatTemplate, load_chat_template, token_text
from outthink.models.fields import read_json

_FALLBACK_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Tokenizer:
    """A tokenizer as its model was trained with it. Immutable; safe to share among threads.

    ``eos_ids`` end a generation, ``bos_id`` begins a text (None where there is none); ``vocab_size`` is one more than
    the largest token id, and may be less than the model's. Make one with `from_directory`.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        eos_ids: tuple[int, ...] = (),
        bos_id: int | None = None,
        chat_template: ChatTemplate | None = None,
        where: str = "tokenizer.json",
    ) -> None:
        self.eos_ids, self.bos_id, self.chat_template, self.where = eos_ids, bos_id, chat_template, where
        self.vocab_size = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self._backend = backend
        self._special = frozenset(i for i, t in backend.get_added_tokens_decoder().items() if t.special)
        self._spell = _speller(json.loads(backend.to_str()).get("decoder"), where)
        self._bytes: dict[int, bytes] = {}

    @classmethod
    def from_directory(
        cls, directory: str | Path, eos_ids: tuple[int, ...] = (), bos_id: int | None = None
    ) -> Tokenizer:
        """Read tokenizer.json and the chat template of ``directory``.

        Where ``eos_ids`` or ``bos_id`` are not given, tokenizer_config.json says them. Raises CheckpointError for a
        missing or malformed file, and for a decoder that is not known.
        """
        directory = Path(directory)
        file, config_file = directory / "tokenizer.json", directory / "tokenizer_config.json"
        if not file.is_file():
            raise CheckpointError(
                f"{directory} has no tokenizer.json. Save one with transformers: "
                f"AutoTokenizer.from_pretrained({str(directory)!r}).save_pretrained({str(directory)!r})."
            )
        read_json(file)  # says where malformed JSON is; the library below does not say in which file
        try:
            backend = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises nothing narrower
            raise CheckpointError(f"{file}: not a tokenizer: {error}.") from error
        backend.no_truncation()
        backend.no_padding()
        config = read_json(config_file) if config_file.is_file() else {}
        eos, bos = (_special_id(backend, config, name) for name in ("eos_token", "bos_token"))
        return cls(
            backend,
            eos_ids or (() if eos is None else (eos,)),
            bos if bos_id is None else bos_id,
            load_chat_template(directory),
            str(file),
        )

    @cached_property
    def fingerprint(self) -> str:
        """Equal for tokenizers that read and write the same ids."""
        return hashlib.blake2b(self._backend.to_str().encode(), digest_size=16).hexdigest()

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Token ids of ``text``. Raises PromptError for text that is no valid Unicode (lone surrogates)."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise PromptError(f"The text is not valid Unicode at character {error.start}.") from error
        return self._backend.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of ``ids`` as a whole text; bytes that are no UTF-8 become U+FFFD."""
        return self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes that a token adds in the middle of a text; empty for an id that names no token.

        Concatenated over ids they are what `decode` returns, apart from the space that some tokenizers strip from the
        very beginning. A token may end inside a character, so decode the concatenation incrementally.
        """
        known = self._bytes.get(token_id)
        if known is None:
            token = self._backend.id_to_token(token_id)
            known = self._bytes[token_id] = b"" if token is None else self._spell(token)
        return known

    def is_special(self, token_id: int) -> bool:
        """Whether a token marks structure (end of text, turns) rather than text."""
        return token_id in self._special

    def render_chat(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """The prompt for chat ``messages``, special tokens included: encode it without adding any.

        Raises PromptError where the model has no chat template or the template refuses the messages.
        """
        if self.chat_template is None:
            raise PromptError(
                f"The model of {self.where} has no chat template (chat_template.jinja, or 'chat_template' in "
                "tokenizer_config.json): add one, or give it a plain prompt."
            )
        return self.chat_template.render(messages, add_generation_prompt, **variables)


def _special_id(backend: tokenizers.Tokenizer, config: Mapping[str, Any], name: str) -> int | None:
    text = token_text(config.get(name))
    return None if text is None else backend.token_to_id(text)


def _speller(decoder: Mapping[str, Any] | None, where: str) -> Callable[[str], bytes]:
    """The function from a token to its bytes inside a text, after the decoder section of a tokenizer.json."""
    if decoder is None:  # tokens are joined by spaces
        return lambda token: b" " + token.encode()
    steps = list(decoder["decoders"]) if decoder["type"] == "Sequence" else [decoder]
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return _byte_level
    replaced: list[tuple[str, str]] = []
    fallback = fused = False
    for step in steps:
        match step:
            case {"type": "Replace", "pattern": {"String": pattern}, "content": content} if not fused:
                replaced.append((pattern, content))
            case {"type": "Metaspace", "replacement": mark} if not fused:
                replaced.append((mark, " "))
            case {"type": "ByteFallback"} if not fused:
                fallback = True
            case {"type": "Fuse"}:
                fused = True
            case {"type": "Strip", "stop": 0} if fused:
                pass  # strips the beginning of the whole text only
            case _:
                raise CheckpointError(f"{where}: the decoder {' + '.join(kinds)} is not supported.")

    def spell(token: str) -> bytes:
        for pattern, content in replaced:
            token = token.replace(pattern, content)
        byte = _FALLBACK_BYTE.fullmatch(token) if fallback else None
        return bytes([int(byte[1], 16)]) if byte else token.encode()

    return spell


def _byte_level(token: str) -> bytes:
    """Bytes of a token whose characters stand for bytes; a token with any other character is plain text."""
    if all(character in _BYTE_OF for character in token):
        return bytes(_BYTE_OF[character] for character in token)
    return token.encode()


def _byte_characters() -> dict[str, int]:
    """GPT-2's printable stand-ins of the 256 bytes: a byte that is printable in Latin-1 is its own character."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_characters()
