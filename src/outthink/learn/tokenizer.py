"""The one tokenizer of the bundled models: byte-level BPE with few merges, every digit a token of its own.

Digits one by one let a small model see place value (Nogueira et al. 2021, arXiv:2102.13019). Any text is encoded
without loss, because the alphabet is the 256 bytes (GPT-2, Radford et al. 2019, 2.2).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import repeat
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

PAD, END, USER, ASSISTANT = SPECIAL_TOKENS = ("<|pad|>", "<|end|>", "<|user|>", "<|assistant|>")
PAD_ID, END_ID, USER_ID, ASSISTANT_ID = range(len(SPECIAL_TOKENS))
VOCAB_SIZE = 768

# Words with the space before them; each digit; each bracket; runs of other signs with the spaces around them; each
# remaining white space. So "12 + 3" is 1, 2, " + ", 3, and a line always ends in a token that is the line feed alone.
_PIECES = r" ?\p{L}+|\p{N}| ?[()\[\]{}]| ?[^\s\p{L}\p{N}()\[\]{}]+ ?|\s"

# A system message goes in front of the next user message. One conversation is one document: no token begins it.
CHAT_TEMPLATE = (
    "{%- set held = namespace(system='') -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}"
    "{%- set held.system = held.system + message['content'] + '\\n\\n' -%}"
    "{%- elif message['role'] == 'user' -%}"
    "{{- '" + USER + "' + held.system + message['content'] -}}"
    "{%- set held.system = '' -%}"
    "{%- elif message['role'] == 'assistant' -%}"
    "{{- '" + ASSISTANT + "' -}}{%- generation -%}{{- message['content'] + '" + END + "' -}}{%- endgeneration -%}"
    "{%- else -%}"
    "{{- raise_exception('Only system, user and assistant messages are known, not ' + message['role'] + '.') -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '" + ASSISTANT + "' -}}{%- endif -%}"
)


# Random names, such as keys to look up, come in a few documents each: they are spelt letter by letter.
_MIN_DOCUMENT_SHARE = 0.015


def build_tokenizer(texts: Iterable[str], vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """A tokenizer of at most ``vocab_size`` tokens with merges learned on ``texts``; the same texts give the same one.

    Ids 0..3 are SPECIAL_TOKENS, then the 256 bytes, then merges by frequency, learned on the words that occur in 3
    texts of 200 at least. No merge crosses a digit, a bracket, a line feed or the boundary of a word.
    """
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(_PIECES), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(_common_pieces(texts, split), trainer)
    return tokenizer


def _common_pieces(texts: Iterable[str], split: pre_tokenizers.Split) -> Iterator[str]:
    documents = [Counter(piece for piece, _ in split.pre_tokenize_str(text)) for text in texts]
    occurs_in = Counter(piece for document in documents for piece in document)
    total = sum(documents, Counter[str]())
    for piece, count in sorted(total.items()):
        if occurs_in[piece] >= _MIN_DOCUMENT_SHARE * len(documents):
            yield from repeat(piece, count)


def save_tokenizer(tokenizer: Tokenizer, directory: Path, context: int) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja into ``directory``.

    ``context`` is the longest text, in tokens, that the model was made for.
    """
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "eos_token": END,
        "pad_token": PAD,
        "additional_special_tokens": [USER, ASSISTANT],
        "clean_up_tokenization_spaces": False,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE, "utf-8")


def encode_example(tokenizer: Tokenizer, prompt: str, solution: str) -> tuple[list[int], int]:
    """The token ids of a question and its solution in the chat format, and how many of them are the question.

    Equal to encoding what the chat template renders for a user and an assistant message. Special tokens written out in
    a prompt would be read as structure, as everywhere in that format.
    """
    question = [USER_ID, *tokenizer.encode(prompt, add_special_tokens=False).ids, ASSISTANT_ID]
    return [*question, *tokenizer.encode(solution, add_special_tokens=False).ids, END_ID], len(question)
