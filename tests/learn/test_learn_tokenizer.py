"""The tokenizer loses nothing, spells numbers digit by digit, and frames chats as transformers does."""

import json
from functools import cache
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from outthink.core.errors import PromptError
from outthink.learn.tokenizer import (
    ASSISTANT_ID,
    END_ID,
    SPECIAL_TOKENS,
    USER_ID,
    build_tokenizer,
    encode_example,
    save_tokenizer,
)
from outthink.learn.train import sample_texts
from outthink.models.tokenizer import Tokenizer

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "compute 2 + 3"}]
ANSWERED = [*CHAT, {"role": "assistant", "content": "2 + 3 = 5\nanswer: 5"}, {"role": "user", "content": "and 4?"}]


@cache
def tokenizer() -> tokenizers.Tokenizer:
    return build_tokenizer(sample_texts("arithmetic", 0, 300))


@given(TEXTS)
def test_every_text_comes_back_unchanged(text: str) -> None:
    ids = tokenizer().encode(text, add_special_tokens=False).ids
    if not any(token in text for token in SPECIAL_TOKENS):
        assert tokenizer().decode(ids) == text


def test_every_single_byte_is_a_token() -> None:
    # Bytes that never occur in UTF-8 (such as 0xFF) have a token too, though no text uses it.
    assert len(tokenizers.pre_tokenizers.ByteLevel.alphabet()) == 256
    assert all(tokenizer().token_to_id(c) is not None for c in tokenizers.pre_tokenizers.ByteLevel.alphabet())


@given(TEXTS | st.from_regex(r"[ 0-9+*()=-]{1,20}", fullmatch=True))
def test_no_token_holds_a_digit_and_anything_else(text: str) -> None:
    for token in tokenizer().encode(text, add_special_tokens=False).tokens:
        assert token in SPECIAL_TOKENS or len(token) == 1 or not any(c in "0123456789" for c in token)


def test_a_tokenizer_that_merges_digits_would_be_caught() -> None:
    careless = tokenizers.Tokenizer(tokenizers.models.BPE())
    careless.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel()
    careless.train_from_iterator(["12 12 12 12"], tokenizers.trainers.BpeTrainer(show_progress=False))
    assert any(len(token) > 1 and "1" in token for token in careless.encode("12").tokens)


def test_common_words_are_one_token_and_rare_ones_are_spelt() -> None:
    texts = ["compute the answer"] * 99 + ["compute zq"]
    tokens = build_tokenizer(texts).encode("compute zq").tokens
    assert tokens == ["compute", "Ġ", "z", "q"]


def test_signs_take_the_spaces_around_them() -> None:
    tokens = tokenizer().encode("12 + (3 * 4)\nanswer: -5").tokens
    assert tokens == ["1", "2", "Ġ+Ġ", "(", "3", "Ġ*Ġ", "4", ")", "Ċ", "answer", ":Ġ", "-", "5"]


def test_the_same_texts_give_the_same_tokenizer() -> None:
    again = build_tokenizer(sample_texts("arithmetic", 0, 300))
    assert json.loads(again.to_str()) == json.loads(tokenizer().to_str())
    assert json.loads(build_tokenizer(["compute it"] * 9).to_str()) != json.loads(again.to_str())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_tokenizer(tokenizer(), tmp_path, 1024)
    return tmp_path


@pytest.mark.parametrize("chat", [CHAT, ANSWERED], ids=["question", "answered"])
@pytest.mark.parametrize("prompt", [True, False], ids=["prompted", "closed"])
def test_chats_are_framed_as_transformers_frames_them(saved: Path, chat: list, prompt: bool) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(saved)
    ours = Tokenizer.from_directory(saved)
    text = ours.render_chat(chat, add_generation_prompt=prompt)
    assert text == theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt)
    ids = theirs.apply_chat_template(chat, add_generation_prompt=prompt, return_dict=True)["input_ids"]
    assert ours.encode(text) == ids
    assert text.startswith("<|user|>Be brief.\n\ncompute 2 + 3")
    assert (theirs.eos_token_id, theirs.pad_token_id) == (END_ID, 0)


def test_training_documents_are_what_the_chat_template_writes(saved: Path) -> None:
    ours = Tokenizer.from_directory(saved)
    prompt, solution = "compute 2 + 3", "2 + 3 = 5\nanswer: 5"
    ids, question_length = encode_example(tokenizer(), prompt, solution)
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": solution}]
    assert ids == ours.encode(ours.render_chat(messages, add_generation_prompt=False))
    assert ids[:question_length] == ours.encode(ours.render_chat(messages[:1]))
    assert (ids[0], ids[question_length - 1], ids[-1]) == (USER_ID, ASSISTANT_ID, END_ID)


def test_an_unknown_role_is_refused(saved: Path) -> None:
    with pytest.raises(PromptError, match="tool"):
        Tokenizer.from_directory(saved).render_chat([{"role": "tool", "content": "x"}])
