"""Attention over a packed row, without the model: three ways to write one rule, and what it says in words.

FlashAttention needs a GPU. Here functions of its names compute, in plain torch, what the documentation of
`flash_attn_varlen_func` says from version 2.1 on, and that of torch's `varlen_attn`; so these tests are of what the
engine hands over, not of the kernels.
"""

import sys
import types

import pytest
import torch
import torch.nn.attention.varlen as varlen
from engine_cases import CASES, build_two, collate
from engine_oracle import by_engine, by_upstream, exact_float64  # noqa: F401

from llamafactory.train.uni_dpo.engine import Choice, attach, attention, has_varlen
from llamafactory.train.uni_dpo.engine.families import decoder_of


SPANS = [(5, 3, 4), (1, 1, 1), (4, 0, 3), (4, 2, 0), (3, 0, 0), (0, 2, 3), (6, 9, 2)]


def flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, **kwargs):
    """Attend within sequences; causal means that the last query sees the last key, `(total, heads, size)`."""
    assert kwargs.keys() == {"softmax_scale", "causal"} and kwargs["causal"] is True
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32 and q.dtype == k.dtype == v.dtype
    assert max_seqlen_q == cu_seqlens_q.diff().max() and max_seqlen_k == cu_seqlens_k.diff().max()
    assert cu_seqlens_q[-1] == len(q) and cu_seqlens_k[-1] == len(k) == len(v)
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    parts = []
    for number in range(len(cu_seqlens_q) - 1):
        asking, seen = (slice(ends[number], ends[number + 1]) for ends in (cu_seqlens_q, cu_seqlens_k))
        queries, keys, values = (x.transpose(0, 1) for x in (q[asking], k[seen], v[seen]))
        scale = kwargs["softmax_scale"] or q.shape[-1] ** -0.5
        scores = queries @ keys.transpose(1, 2) * scale
        hidden = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1 + scores.shape[2] - scores.shape[1])
        parts.append((scores.masked_fill(hidden, -torch.inf).softmax(-1) @ values).transpose(0, 1))
    return torch.cat(parts)


def varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size):
    """Torch's, which takes as many heads of keys as of queries."""
    assert window_size == (-1, 0) and query.shape[1:] == key.shape[1:] == value.shape[1:]
    ends = (cu_seq_q, cu_seq_k, max_q, max_k)
    return flash_attn_varlen_func(query, key, value, *ends, softmax_scale=scale, causal=True)


@pytest.fixture
def flash(monkeypatch):
    """Put a FlashAttention in plain torch where the engine imports it from."""
    monkeypatch.setattr(varlen, "varlen_attn", varlen_attn)
    module = types.ModuleType("flash_attn")
    module.flash_attn_varlen_func = flash_attn_varlen_func
    monkeypatch.setitem(sys.modules, "flash_attn", module)


def by_mask(query, key, value, spans, scale):
    """Attend by `branch_mask`."""
    numbers = torch.arange(3 * len(spans)).repeat_interleave(torch.tensor(spans).flatten())
    mask = attention.branch_mask(numbers[None], query.dtype)
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    weights = (query @ key.transpose(2, 3) * scale + mask).softmax(-1)
    return (weights @ value).transpose(1, 2)


def by_words(query, key, value, spans, scale):
    """Attend query by query: a token sees the tokens up to itself of its own sequence, be it chosen or rejected."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    outputs, start = [], 0
    for shared, chosen, rejected in spans:
        indices = list(range(start, start + shared + chosen + rejected))
        for place, at in enumerate(indices):
            seen = indices[: place + 1]
            if place >= shared + chosen:
                seen = indices[:shared] + indices[shared + chosen : place + 1]
            for head in range(query.shape[1]):
                group = head // (query.shape[1] // key.shape[1])
                weights = (key[0, group, seen] @ query[0, head, at] * scale).softmax(0)
                outputs.append(weights @ value[0, group, seen])
        start += shared + chosen + rejected
    return torch.stack(outputs).view(1, start, query.shape[1], -1)


def inputs():
    generator = torch.Generator().manual_seed(0)
    length = sum(sum(span) for span in SPANS)
    shapes = [(1, 4, length, 6), (1, 2, length, 6), (1, 2, length, 6)]  # four heads share two key heads
    return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize(
    "way", [attention.split_attention, attention.flash_attention, attention.varlen_attention, by_mask]
)
def test_all_ways_agree_with_the_rule_in_words(way, scale, flash):
    """In values and in gradients, over pairs with empty parts too."""
    results = []
    for attend in (way, by_words):
        parts = inputs()
        output = attend(*parts, SPANS, scale)
        (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
        results.append([output, *(part.grad for part in parts)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


def test_padding_looks_at_itself():
    """A row of a mask without any zero would make the softmax, and with it all gradients, NaN."""
    mask = attention.branch_mask(torch.tensor([[0, 1, 2, -1, -1]]), torch.float32)[0, 0]
    lowest = torch.finfo(torch.float32).min
    visible = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]
    assert torch.equal(mask == 0, torch.tensor(visible).bool())
    assert torch.equal(mask == lowest, ~torch.tensor(visible).bool())


@pytest.mark.parametrize("autocast", [False, True])
def test_a_model_with_flash_attention(flash, exact_float64, autocast):  # noqa: F811
    """The whole step; under autocast, too, where FlashAttention would refuse float32 queries."""
    dtype = torch.float32 if autocast else torch.float64
    stock, ours = (build_two("qwen2_vl", dtype=dtype) for _ in range(2))
    for model in ours:
        decoder_of(model).config._attn_implementation = "flash_attention_2"
    batch = collate(stock[0], CASES["batch"])
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        outcome = by_engine(*ours, batch, "packed")
        assert decoder_of(ours[0]).config._attn_implementation == "uni_dpo_flash_attention_2"
        assert outcome.distance(by_upstream(*stock, batch)) < (0.2 if autocast else 1e-9)


def test_a_model_with_torchs_variable_length_attention(flash, exact_float64):  # noqa: F811
    """The whole step, and the name under which transformers finds it."""
    stock, ours = (build_two("qwen2_vl", dtype=torch.float64) for _ in range(2))
    for model in ours:
        attach(model, Choice("shared_prefix", "packed", varlen=True))
    batch = collate(stock[0], CASES["batch"])
    assert decoder_of(ours[0]).config._attn_implementation == "uni_dpo_varlen_sdpa"
    assert by_engine(*ours, batch, "packed").distance(by_upstream(*stock, batch)) < 1e-9


def test_the_signature_of_torchs_kernel_is_looked_at(monkeypatch):
    """The installed one has what is called; that of torch 2.10 had other options."""
    assert has_varlen()
    monkeypatch.setattr(varlen, "varlen_attn", lambda query, key, value, is_causal=False: None)
    assert not has_varlen()
