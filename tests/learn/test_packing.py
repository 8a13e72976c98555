"""Packed rows hold every document once, apart from the others, with the weights that were asked for."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from outthink.learn.loss import Batch, fused_attention, packed_loss, product_attention
from outthink.learn.packing import Document, fill_rows, pack, plan_rows
from outthink.learn.sizes import get_size, model_config
from outthink.models.transformer import Transformer

WIDTHS, MICRO = (16, 32, 64), 128


@st.composite
def document_lists(draw: st.DrawFn) -> list[Document]:
    lengths = draw(st.lists(st.integers(3, 64), min_size=1, max_size=40))
    # Every token is unique, so that a document can be found again.
    starts = np.cumsum([0, *lengths])
    return [
        Document(list(range(100 + int(s), 100 + int(s) + n)), draw(st.integers(1, n - 1)))
        for s, n in zip(starts, lengths, strict=False)
    ]


@given(document_lists())
def test_every_document_is_there_once_and_whole(documents: list[Document]) -> None:
    batches = pack(documents, WIDTHS, MICRO, question_weight=0.25)
    found = []
    for batch in batches:
        assert batch.tokens.shape[1] in WIDTHS and batch.tokens.size == MICRO
        for row in range(len(batch.tokens)):
            for segment in range(1, batch.segments[row].max(initial=0) + 1):
                here = batch.segments[row] == segment
                ids = batch.tokens[row][here].tolist()
                assert batch.positions[row][here].tolist() == list(range(len(ids)))
                assert batch.targets[row][here].tolist()[:-1] == ids[1:]
                question = int((batch.weights[row][here] == 0.25).sum()) + 1
                assert batch.weights[row][here].tolist() == [0.25] * (question - 1) + [1.0] * (len(ids) - question) + [
                    0
                ]
                found.append((ids, question))
        assert not batch.weights[batch.segments == 0].any()
    assert sorted(found) == sorted((list(d.ids), d.question_length) for d in documents)


@given(document_lists())
def test_only_the_widest_rows_in_use_are_padded_out(documents: list[Document]) -> None:
    batches = pack(documents, WIDTHS, MICRO, 0.0)
    widest = max(batch.tokens.shape[1] for batch in batches)
    for batch in batches:
        empty = (batch.segments.max(axis=1) == 0).sum()
        assert empty == 0 or batch.tokens.shape[1] == widest


def test_a_document_longer_than_the_row_is_refused() -> None:
    with pytest.raises(ValueError, match="20 tokens does not fit into a row of 16"):
        plan_rows([Document(range(20), 3)], 16)


def model() -> Transformer:
    made = Transformer(model_config(get_size("XS"), 64, 128))
    made.init_weights(3)
    return made


def random_documents(count: int = 9) -> list[Document]:
    rng = np.random.default_rng(1)
    return [Document(rng.integers(4, 64, rng.integers(5, 30)).tolist(), 3) for _ in range(count)]


def batch_of(documents: list[Document], width: int) -> Batch:
    rows = plan_rows(documents, width)
    return Batch.of(fill_rows(rows, len(rows) + 1, width, 0.5), torch.device("cpu"))


@pytest.mark.parametrize("attention", [product_attention, fused_attention])
def test_the_loss_of_packed_rows_is_the_sum_of_the_documents_own(attention) -> None:
    documents, net = random_documents(), model()
    packed = packed_loss(net, batch_of(documents, 64), attention)
    alone = sum(packed_loss(net, batch_of([d], len(d.ids)), attention) for d in documents)
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-4)
    packed.backward()
    gradients = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    sum(packed_loss(net, batch_of([d], len(d.ids)), attention) for d in documents).backward()
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-4)


def test_rows_that_forget_their_segments_are_noticed() -> None:
    documents, net = random_documents(), model()
    right = batch_of(documents, 64)
    values = {f.name: getattr(right, f.name) for f in fields(right)}
    leaky = Batch(**values | {"segments": torch.ones_like(right.segments)})
    difference = packed_loss(net, leaky, product_attention) - packed_loss(net, right, product_attention)
    assert abs(difference.item()) > 1e-2


def test_both_attentions_agree_on_padding_too() -> None:
    batch = batch_of(random_documents(), 32)
    q = torch.randn(batch.tokens.numel(), 4, 8)
    k, v = (torch.randn(batch.tokens.numel(), 2, 8) for _ in range(2))
    one, other = (attention(batch.segments)(0, q, k, v) for attention in (product_attention, fused_attention))
    torch.testing.assert_close(one, other)


def test_rows_are_filled_up_with_short_documents() -> None:
    documents = random_documents(400)
    rows = plan_rows(documents, 64)
    assert sum(len(d.ids) for d in documents) / (64 * len(rows)) > 0.9
