"""Concatenated token bytes are the text that the tokenizers library decodes, for every decoder that is known."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from hf_models import SPECIAL_TOKENS, make_tokenizer
from outthink.core.errors import CheckpointError, PromptError
from outthink.models.tokenizer import Tokenizer

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
BYTE_LEVEL_BACKEND = make_tokenizer().backend_tokenizer
BYTE_LEVEL_BACKEND.add_tokens(["<tool>", "two words", "｜▁｜"])  # added, not special; the last two are no byte strings
BYTE_LEVEL = Tokenizer(BYTE_LEVEL_BACKEND)


def byte_fallback_backend() -> Backend:
    """A Llama-2-like tokenizer: pieces with U+2581 for the space, and 256 byte tokens for all else."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    characters = ["▁", *"abehlnortw0123456789+=é"]
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("▁", "a"), ("▁", "▁"), ("h", "e"), ("l", "l"), ("he", "ll")]
    vocabulary = {piece: i for i, piece in enumerate([*pieces, *characters, *(a + b for a, b in merges)])}
    backend = Backend(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(piece, normalized=False) for piece in ("<unk>", "<s>", "</s>")])
    return backend


def metaspace_backend() -> Backend:
    """A sentencepiece-like tokenizer whose decoder is Metaspace."""
    pieces = ["<unk>", "▁", *"abcdefgh", "▁a", "bc"]
    backend = Backend(models.BPE({p: i for i, p in enumerate(pieces)}, [("▁", "a"), ("b", "c")], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return backend


def words_backend() -> Backend:
    """Whole words and no decoder: decoding joins them with spaces."""
    return Backend(models.WordLevel({"<unk>": 0, "one": 1, "two": 2, "drei": 3}, unk_token="<unk>"))


BYTE_FALLBACK = Tokenizer(byte_fallback_backend())
METASPACE, WORDS = Tokenizer(metaspace_backend()), Tokenizer(words_backend())


def joined(tokenizer: Tokenizer, ids: list[int]) -> bytes:
    return b"".join(tokenizer.token_bytes(i) for i in ids if not tokenizer.is_special(i))


def ids_of(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30)


@given(TEXT)
def test_byte_level_text_comes_back(text: str) -> None:
    ids = BYTE_LEVEL.encode(text)
    assert joined(BYTE_LEVEL, ids) == text.encode()
    assert BYTE_LEVEL.decode(ids) == text


@given(ids_of(BYTE_LEVEL))
def test_byte_level_bytes_are_the_decoded_text(ids: list[int]) -> None:
    assert joined(BYTE_LEVEL, ids).decode("utf-8", errors="replace") == BYTE_LEVEL.decode(ids)
    spelled = b"".join(BYTE_LEVEL.token_bytes(i) for i in ids)
    assert spelled.decode("utf-8", errors="replace") == BYTE_LEVEL.decode(ids, skip_special_tokens=False)


@given(TEXT)
def test_byte_fallback_text_comes_back_after_the_prepended_space(text: str) -> None:
    ids = BYTE_FALLBACK.encode(text)
    assert joined(BYTE_FALLBACK, ids).decode() == (" " + text.replace("▁", " ") if text else "")


@given(ids_of(BYTE_FALLBACK))
def test_byte_fallback_bytes_are_the_decoded_text(ids: list[int]) -> None:
    spelled = joined(BYTE_FALLBACK, ids).decode("utf-8", errors="replace")
    if "\ufffd" not in spelled:  # the library replaces each byte of a broken run, Python each maximal part
        assert BYTE_FALLBACK.decode(ids) == spelled.removeprefix(" ")
    else:
        assert "\ufffd" in BYTE_FALLBACK.decode(ids)


@pytest.mark.parametrize("tokenizer", [METASPACE, WORDS])
@given(data=st.data())
def test_other_decoders(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(ids_of(tokenizer))
    assert joined(tokenizer, ids).decode().removeprefix(" ") == tokenizer.decode(ids)


def test_every_byte_can_be_spelled() -> None:
    for tokenizer in (BYTE_LEVEL, BYTE_FALLBACK):
        single = {tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)}
        assert {bytes([byte]) for byte in range(256)} <= single


def test_a_character_may_lie_in_several_tokens() -> None:
    for tokenizer in (BYTE_LEVEL, BYTE_FALLBACK):
        ids = tokenizer.encode("𝕏")
        assert len(ids) > 1
        assert not all(b"\xf0\x9d\x95\x8f" in tokenizer.token_bytes(i) for i in ids)


def test_special_tokens_and_padding_ids() -> None:
    ids = [BYTE_LEVEL.encode(token)[0] for token in SPECIAL_TOKENS]
    assert all(BYTE_LEVEL.is_special(i) for i in ids)
    assert [BYTE_LEVEL.token_bytes(i).decode() for i in ids] == SPECIAL_TOKENS
    assert not BYTE_LEVEL.is_special(BYTE_LEVEL.encode("<tool>")[0])
    assert BYTE_LEVEL.token_bytes(BYTE_LEVEL.vocab_size + 5) == b""
    assert BYTE_LEVEL.decode([BYTE_LEVEL.vocab_size + 5]) == ""


def test_from_directory_reads_the_special_ids_and_drops_truncation(tmp_path: Path) -> None:
    fast = make_tokenizer()
    fast.backend_tokenizer.enable_truncation(3)
    fast.save_pretrained(tmp_path)
    backend = fast.backend_tokenizer
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_directory(tmp_path)
    assert tokenizer.eos_ids == (fast.eos_token_id,)
    assert tokenizer.bos_id == fast.bos_token_id
    assert tokenizer.vocab_size == len(fast)
    assert tokenizer.decode(tokenizer.encode("a text of more than three tokens")) == "a text of more than three tokens"
    assert Tokenizer.from_directory(tmp_path, (7, 8), 9).eos_ids == (7, 8)
    assert Tokenizer.from_directory(tmp_path, (7, 8), 9).bos_id == 9


def test_special_tokens_are_added_only_where_asked() -> None:
    fast = make_tokenizer()
    from tokenizers.processors import TemplateProcessing

    backend = fast.backend_tokenizer
    backend.post_processor = TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])
    tokenizer = Tokenizer(backend)
    assert tokenizer.encode("hi", add_special_tokens=True) == [0, *tokenizer.encode("hi")]


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(PromptError, match="character 2"):
        BYTE_LEVEL.encode("ab\ud800c")


def test_a_missing_tokenizer_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json.*save_pretrained"):
        Tokenizer.from_directory(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected a JSON object"),
        ('{"version": "1.0", "model": {"type": "Unheard"}}', "not a tokenizer"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_malformed_tokenizers(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json") as error:
        Tokenizer.from_directory(tmp_path)
    assert message in str(error.value)


def test_an_unknown_decoder_is_refused_by_name(tmp_path: Path) -> None:
    backend = words_backend()
    backend.decoder = decoders.WordPiece()
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="WordPiece is not supported"):
        Tokenizer.from_directory(tmp_path)


def test_a_malformed_tokenizer_config_is_named(tmp_path: Path) -> None:
    make_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps([1]))
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json"):
        Tokenizer.from_directory(tmp_path)
