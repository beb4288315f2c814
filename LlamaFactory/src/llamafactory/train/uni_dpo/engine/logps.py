"""Log-probs of given tokens from hidden states.

Only `[scored tokens, vocabulary]` logits ever exist, and above a budget only a part of them at a time: they are then
computed again in the backward pass. Everything happens inside the output layer's own call, so that whoever shards its
weight (DeepSpeed ZeRO-3, FSDP) gathers it once; a layer that is more than a weight (LoRA, quantised) is called as is.
"""

import types

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


# Of logits in float32 at one time, in bytes; the passes over them need about twice as much.
LOGITS_BUDGET = 2**28


def attach_head(head: nn.Module) -> None:
    """Let an output layer that is a plain matrix also take `(hidden, targets)` and return log-probs.

    Does nothing to any other layer, nor a second time.
    """
    if not is_plain(head) or getattr(head, "scores_tokens", False):
        return
    original = head.forward

    def forward(self: nn.Linear, hidden: torch.Tensor, targets: torch.Tensor | None = None, squares: bool = False):
        return original(hidden) if targets is None else linear_logps(hidden, self.weight, targets, squares=squares)

    head.forward = types.MethodType(forward, head)
    head.scores_tokens = True


def is_plain(head: nn.Module) -> bool:
    """Tell whether a layer's output is its input times its weight and nothing else."""
    hooked = hasattr(head, "_hf_hook") or head._forward_hooks or head._forward_pre_hooks
    return type(head) is nn.Linear and head.bias is None and not hooked


def token_logps(
    head: nn.Module, hidden: torch.Tensor, targets: torch.Tensor, squares: bool = False
) -> tuple[torch.Tensor, ...]:
    """Compute log p(target) for each hidden state.

    Args:
        head: the output layer.
        hidden: hidden states, shape (tokens, size).
        targets: token ids, shape (tokens,).
        squares: whether the third of the values below is wanted.

    Returns:
        Log-probs in nats, the means of each token's logits, and with `squares` the logarithm of the sum of squares of
        all probabilities, each of shape (tokens,), in float32 or better; only the first with gradient.
    """
    if getattr(head, "scores_tokens", False):
        return head(hidden, targets, squares)

    def score(part: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return logits_logps(head(part), wanted, squares)

    sharded = torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
    vocabulary = getattr(head, "out_features", None)
    # A layer that may be sharded is gathered at every call, and all ranks must call it equally often.
    size = len(targets) if sharded or vocabulary is None else chunk_size(len(targets), vocabulary)
    if size >= len(targets):
        return score(hidden, targets)
    parts = zip(hidden.split(size), targets.split(size), strict=True)
    scored = [checkpoint(score, *part, use_reentrant=False) for part in parts]
    return tuple(map(torch.cat, zip(*scored, strict=True)))


def linear_logps(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, budget: int | None = None, squares: bool = False
) -> tuple[torch.Tensor, ...]:
    """Compute `token_logps` for a plain matrix of shape (vocabulary, size), within a budget of bytes of logits."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device):  # here, as autocast is off in the backward pass of a custom function
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    size = chunk_size(len(targets), len(weight), budget)
    with torch.autocast(device, enabled=False):
        if size >= len(targets):
            return logits_logps(F.linear(hidden, weight), targets, squares)
        return _ChunkedLogps.apply(hidden, weight, targets, size, squares)


def chunk_size(tokens: int, vocabulary: int, budget: int | None = None) -> int:
    """Split `tokens` evenly into as few chunks as the budget allows."""
    most = max(1, (budget or LOGITS_BUDGET) // (4 * vocabulary))
    chunks = max(1, -(-tokens // most))
    return -(-tokens // chunks)


def logits_logps(logits: torch.Tensor, targets: torch.Tensor, squares: bool = False) -> tuple[torch.Tensor, ...]:
    """Compute `token_logps` from logits, shape (tokens, vocabulary)."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    chosen, total = logits.gather(1, targets[:, None])[:, 0], logits.logsumexp(-1)
    values = logits.detach()
    squared = ((2 * values).logsumexp(-1) - 2 * total.detach(),) if squares else ()
    return chosen - total, values.mean(-1), *squared


class _ChunkedLogps(torch.autograd.Function):
    """`logits_logps` of `hidden @ weight.T` with the logits of `size` tokens in memory at a time."""

    @staticmethod
    def forward(ctx, hidden, weight, targets, size, squares):
        parts = zip(hidden.split(size), targets.split(size), strict=True)
        scored = [logits_logps(F.linear(h, weight), t, squares) for h, t in parts]
        logps, *aside = (torch.cat(values) for values in zip(*scored, strict=True))
        ctx.save_for_backward(hidden, weight, targets)
        ctx.size = size
        ctx.mark_non_differentiable(*aside)
        return logps, *aside

    @staticmethod
    def backward(ctx, grad, *_):
        hidden, weight, targets = ctx.saved_tensors
        grad_hidden, grad_weight = [], None
        for h, t, g in zip(*(x.split(ctx.size) for x in (hidden, targets, grad)), strict=True):
            logits = F.linear(h, weight).to(grad.dtype)
            # d logp / d logits = onehot(target) - softmax
            slope = torch.softmax(logits, -1).mul_(-g[:, None])
            slope[torch.arange(len(t), device=t.device), t] += g
            del logits
            slope = slope.to(h.dtype)
            if ctx.needs_input_grad[0]:
                grad_hidden.append(slope @ weight)
            if ctx.needs_input_grad[1]:
                part = slope.t() @ h
                # Added up in float32, as bfloat16 would lose small parts; without a float32 copy of each part.
                grad_weight = part.to(grad.dtype) if grad_weight is None else grad_weight.add_(part)
        grad_hidden = torch.cat(grad_hidden) if grad_hidden else None
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None, None
