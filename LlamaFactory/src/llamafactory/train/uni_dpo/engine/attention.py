"""Attention over `[shared | chosen | rejected]`: the rejected rest sees the shared part, not the chosen rest.

No mask is needed. Shared part and chosen rest together are plain causal attention; the rejected rest attends to the
shared part and, causally, to itself. The cost is linear in pairs, and every call is one that fast kernels know:
`scaled_dot_product_attention`, or a variable-length FlashAttention: of the package of that name where the model uses
FlashAttention-2, of torch where the user asks for it.

A model opts in by name: `uni_dpo_sdpa` behaves as `sdpa` does until a forward brings `pair_spans`.
"""

import functools
import inspect
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention.bias import causal_lower_right
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


try:
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
except ImportError:  # before transformers 4.53, where `choice.py` leaves everything to the model's own forward
    ALL_MASK_ATTENTION_FUNCTIONS = None

PREFIX = "uni_dpo_"

# The placeholder that keeps transformers from making a mask: it hands a mask of four dimensions on as it is.
NO_MASK_SHAPE = (1, 1, 1, 1)

# Set by `full_determinism: true`; transformers reads it for its own calls of FlashAttention.
DETERMINISTIC = "FLASH_ATTENTION_DETERMINISTIC"

Spans = list[tuple[int, int, int]]


def register(base: str, varlen: bool = False) -> str:
    """Make an attention implementation that extends `base` by `pair_spans` known to transformers.

    Args:
        base: `sdpa` or `flash_attention_2`.
        varlen: whether torch's variable-length FlashAttention takes the place of `sdpa` for pairs.

    Returns:
        Its name.
    """
    attend = {"sdpa": varlen_attention if varlen else split_attention, "flash_attention_2": flash_attention}[base]
    name = PREFIX + ("varlen_" if varlen else "") + base

    def attention(module: torch.nn.Module, query, key, value, attention_mask, pair_spans=None, **kwargs: Any):
        if pair_spans is None:
            with _named(module.config, base):
                return ALL_ATTENTION_FUNCTIONS[base](module, query, key, value, attention_mask, **kwargs)
        # Under autocast a rotary embedding leaves float32, and neither a bias nor FlashAttention takes two dtypes.
        query, key = query.to(value.dtype), key.to(value.dtype)
        return attend(query, key, value, pair_spans, kwargs.get("scaling")), None

    ALL_ATTENTION_FUNCTIONS.register(name, attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    return name


@contextmanager
def _named(config: Any, name: str) -> Iterator[None]:
    """Let transformers' own function find its own name, from which it loads its kernel."""
    ours, config._attn_implementation = config._attn_implementation, name
    try:
        yield
    finally:
        config._attn_implementation = ours


def split_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, spans: Spans, scale: float | None
) -> torch.Tensor:
    """Attend within each pair of one packed row.

    Args:
        query: shape (1, heads, length, size).
        key: shape (1, key heads, length, size); the number of heads is a multiple of that of key heads.
        value: the same.
        spans: lengths of each pair's three parts, in order; they add up to `length`.
        scale: factor on the scores; None means one over the root of `size`.

    Returns:
        Shape (1, length, heads, size).
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (key, value))
    # Pieces of one `split`: the backward pass of a slice writes a whole row of zeros, once for each pair.
    lengths = [length for shared, chosen, rejected in spans for length in (shared + chosen, rejected)]
    pieces = [x.split(lengths, dim=2) for x in (query, key, value)]
    parts = []
    for number, (shared, chosen, rejected) in enumerate(spans):
        first, last = ([x[2 * number + part] for x in pieces] for part in (0, 1))
        if shared + chosen:
            parts.append(F.scaled_dot_product_attention(*first, is_causal=True, scale=scale))
        if rejected:
            seen = (torch.cat([x[:, :, :shared], y], dim=2) for x, y in zip(first[1:], last[1:], strict=True))
            bias = causal_lower_right(rejected, shared + rejected)
            parts.append(F.scaled_dot_product_attention(last[0], *seen, attn_mask=bias, scale=scale))
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous()


def flash_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, spans: Spans, scale: float | None
) -> torch.Tensor:
    """Do the same as `split_attention` in one call of FlashAttention, from 2.1 on, where causal means lower right.

    Its backward pass is the same to the bit every time only where `full_determinism` asks for it, as it is slower.
    """
    from flash_attn import flash_attn_varlen_func

    parts, ends, longest = _as_sequences(query, key, value, spans)
    options = {"softmax_scale": scale, "causal": True}
    if os.environ.get(DETERMINISTIC) == "1":
        options["deterministic"] = True  # from 2.4.1 on
    return flash_attn_varlen_func(*parts, *ends, *longest, **options)[None]


def varlen_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, spans: Spans, scale: float | None
) -> torch.Tensor:
    """Do the same in one call of torch's own FlashAttention, which has half precision on a GPU and nothing else."""
    from torch.nn.attention.varlen import varlen_attn

    parts, ends, longest = _as_sequences(query, key, value, spans)
    heads = query.shape[1] // key.shape[1]
    parts[1:] = (x.repeat_interleave(heads, dim=1) if heads > 1 else x for x in parts[1:])
    causal = {"window_size": (-1, 0)}  # aligned to the lower right, as in FlashAttention from 2.1 on
    return varlen_attn(*parts, *ends, *longest, scale=scale, **causal)[None]


def has_varlen() -> bool:
    """Tell whether torch has a variable-length attention that can be called as above, as from 2.11 on."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return {"scale", "window_size"} <= inspect.signature(varlen_attn).parameters.keys()


def _as_sequences(query, key, value, spans: Spans) -> tuple[list[torch.Tensor], list[torch.Tensor], list[int]]:
    """Lay a row out for variable-length kernels: tensors of shape (total, heads, size), ends and longest lengths."""
    pieces, ends, longest = _sequences(tuple(spans), query.device)
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
    # `split` and `cat`, as the backward of an index is not deterministic on a GPU, and that of slices not linear.
    key, value = (x.split([length for span in spans for length in span]) for x in (key, value))
    key, value = (torch.cat([x[number] for number in pieces]) for x in (key, value))
    return [query, key, value], ends, longest


@functools.lru_cache(maxsize=4)  # every layer of a forward asks for the same
def _sequences(spans: tuple[tuple[int, int, int], ...], device: torch.device) -> tuple[list, list, list]:
    """Find parts of keys by number, and cumulative and longest lengths of queries and of keys."""
    pieces, queries, keys = [], [0], [0]
    for number, (shared, chosen, rejected) in enumerate(spans):
        for part, asking, rest in ((1, shared + chosen, chosen), (2, rejected, rejected)):
            if asking:
                pieces += [3 * number, 3 * number + part]
                queries.append(queries[-1] + asking)
                keys.append(keys[-1] + shared + rest)
    longest = [max(after - before for before, after in itertools.pairwise(ends)) for ends in (queries, keys)]
    ends = [torch.tensor(ends, dtype=torch.int32).to(device, non_blocking=True) for ends in (queries, keys)]
    return pieces, ends, longest


def branch_mask(branches: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Write the same rule as an additive mask, for attention that has nothing but masks.

    Args:
        branches: as in `PairLayout.branches`, shape (rows, length).
        dtype: of the mask.

    Returns:
        Zero where a query may look and the lowest number elsewhere, shape (rows, 1, length, length). Padding looks
        at itself, as a row without any allowed key would be NaN.
    """
    asked, seen = branches[:, :, None], branches[:, None, :]
    shared = (seen % 3 == 0) & (seen // 3 == torch.div(asked, 3, rounding_mode="floor"))
    order = torch.arange(branches.shape[1], device=branches.device)
    allowed = ((asked == seen) | shared) & (seen >= 0) & (order[:, None] >= order[None, :])
    allowed |= torch.eye(branches.shape[1], dtype=torch.bool, device=branches.device)
    mask = torch.zeros(allowed.shape, dtype=dtype, device=branches.device)
    return mask.masked_fill(~allowed, torch.finfo(dtype).min)[:, None]
