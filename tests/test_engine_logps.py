"""Log-probs from hidden states: in chunks, at once, and as `log_softmax` says, in value, gradient and memory."""

import pytest
import torch
import torch.nn.functional as F
from engine_cases import TEXT_CASES, collate
from engine_models import build
from engine_oracle import MEDIA_IDS, loss_of_means, upstream_logps
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from llamafactory.train.uni_dpo.engine import Choice, attach, lay_out, logps, pair_logps
from llamafactory.train.uni_dpo.engine.logps import attach_head, chunk_size, linear_logps, token_logps


SIZE, VOCABULARY, TOKENS = 12, 50, 17
QWEN = 151_936

# Bytes of logits, and how many chunks they make of 17 tokens: all at once, 9 and 8, six of 3 or 2, one by one.
BUDGETS = {TOKENS * VOCABULARY * 4: 1, 10 * VOCABULARY * 4: 2, 3 * VOCABULARY * 4: 6, 1: TOKENS}


def inputs(dtype=torch.float64, tokens=TOKENS, vocabulary=VOCABULARY):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, SIZE, generator=generator).to(dtype).requires_grad_()
    weight = (0.5 * torch.randn(vocabulary, SIZE, generator=generator)).to(dtype).requires_grad_()
    targets = torch.randint(vocabulary, (tokens,), generator=generator)
    targets[-1] = targets[0]
    return hidden, weight, targets


def plainly(logits, targets):
    """Compute what `token_logps` should, from all logits."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0], logits.mean(-1)


def with_gradients(compute, *leaves):
    """Return log-probs, mean logits, and gradients of the leaves for a slope of a different size for every token."""
    for leaf in leaves:
        leaf.grad = None
    scored, means = compute()
    assert not means.requires_grad or compute.__name__ == "plain"
    (scored * torch.linspace(-2, 3, len(scored)).to(scored.dtype)).sum().backward()
    return [scored.detach(), means.detach(), *(leaf.grad for leaf in leaves)]


def assert_equal(ours, theirs, bound):
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == other.dtype
        assert (mine - other).abs().max() <= bound * other.abs().max()


@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-14), (torch.float32, 2e-6)])
@pytest.mark.parametrize("budget", BUDGETS)
def test_chunks_change_nothing(budget, dtype, bound):
    """Chunks of one size, of two, and of single tokens."""
    hidden, weight, targets = inputs(dtype)
    assert -(-TOKENS // chunk_size(TOKENS, VOCABULARY, budget)) == BUDGETS[budget]

    def plain():
        return plainly(hidden @ weight.T, targets)

    ours = with_gradients(lambda: linear_logps(hidden, weight, targets, budget), hidden, weight)
    assert_equal(ours, with_gradients(plain, hidden, weight), bound)


def test_gradcheck():
    """Against differences of values, with either input frozen too."""
    hidden, weight, targets = inputs(tokens=5, vocabulary=7)
    for frozen in (None, hidden, weight):
        parts = [part.detach() if part is frozen else part for part in (hidden, weight)]
        assert torch.autograd.gradcheck(lambda h, w: linear_logps(h, w, targets, budget=2 * 7 * 4)[0], parts)


@pytest.mark.parametrize("budget", BUDGETS)
def test_autocast(budget):
    """Weights in float32 under autocast to bfloat16: the hidden states' gradient is that of the ordinary layer.

    The weight's differs in the last bits of bfloat16 (one part in 256), as chunks are added up in float32.
    """
    hidden, weight, targets = inputs(torch.float32)

    def plain():
        return plainly(F.linear(hidden, weight), targets)

    with torch.autocast("cpu", torch.bfloat16):
        theirs = with_gradients(plain, hidden, weight)
        ours = with_gradients(lambda: linear_logps(hidden, weight, targets, budget), hidden, weight)
    assert_equal(ours[:2], theirs[:2], 1e-6)
    assert_equal(ours[2:3], theirs[2:3], 1 / 256)
    assert_equal(ours[3:], theirs[3:], 2 / 256)


def test_many_chunks_of_bfloat16_lose_nothing():
    """The weight's gradient of many chunks is added up in float32: added up in bfloat16 it would stop growing."""
    hidden, weight, targets = inputs(torch.bfloat16, tokens=600)
    hidden.data.abs_()  # so that gradients of all tokens point the same way
    exact = [part.detach().double().requires_grad_() for part in (hidden, weight)]

    def plain():
        return plainly(exact[0] @ exact[1].T, targets)

    truth = with_gradients(plain, *exact)[3]
    grad = with_gradients(lambda: linear_logps(hidden, weight, targets, 1), hidden, weight)[3]
    assert (grad.double() - truth).abs().max() < 0.01 * truth.abs().max()


def lora_head(head):
    torch.manual_seed(0)
    holder = nn.ModuleDict({"lm_head": head})
    return get_peft_model(holder, LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False)).lm_head


def hooked_head(head):
    """With hooks that expect logits, as LlamaFactory's `upcast_lmhead_output` adds one; this one changes them."""
    head.register_forward_hook(lambda module, args, output: output.tanh() * 4)
    return head


def biased_head(head):
    head.bias = nn.Parameter(torch.linspace(-1, 1, VOCABULARY, dtype=torch.float64))
    return head


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("dress", [lambda head: head, lora_head, biased_head, hooked_head])
def test_a_layer_that_is_more_than_a_weight(dress, budget, monkeypatch):
    """It is called as it is, in chunks too, and every weight in it gets its gradient."""
    monkeypatch.setattr(logps, "LOGITS_BUDGET", budget)
    hidden, weight, targets = inputs()
    head = nn.Linear(SIZE, VOCABULARY, bias=False, dtype=torch.float64)
    head.weight.data.copy_(weight)
    head = dress(head).double()
    leaves = [hidden, *(leaf for leaf in head.parameters() if leaf.requires_grad)]

    def plain():
        return plainly(head(hidden), targets)

    theirs = with_gradients(plain, *leaves)
    attach_head(head)
    assert_equal(with_gradients(lambda: token_logps(head, hidden, targets), *leaves), theirs, 1e-13)
    assert_equal([head(hidden).detach()], [head(hidden).detach()], 0)  # it still gives logits to others


class LargestTensor(TorchDispatchMode):
    """Records the size in bytes of the largest tensor that any operation makes, in forward and backward."""

    def __init__(self):
        """Start at nothing."""
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run an operation and look at what it returns."""
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if torch.is_tensor(tensor):
                self.bytes = max(self.bytes, tensor.numel() * tensor.element_size())
        return result


@pytest.mark.parametrize("dress", [lambda head: head, lora_head], ids=["plain", "lora"])
def test_no_tensor_is_larger_than_the_budget(dress, monkeypatch):
    """At the vocabulary of Qwen2: nothing beyond the budget is made, but for what is as large as the weight itself."""
    tokens, budget = 40, 8 * 2**20
    monkeypatch.setattr(logps, "LOGITS_BUDGET", budget)
    head = dress(nn.Linear(SIZE, QWEN, bias=False))
    attach_head(head)
    hidden, _, targets = inputs(torch.float32, tokens)
    with LargestTensor() as largest:
        token_logps(head, hidden, targets)[0].sum().backward()
    assert budget / 2 < largest.bytes <= max(budget, 4 * QWEN * SIZE) < 4 * QWEN * tokens / 2
    with LargestTensor() as largest:
        plainly(head(hidden), targets)[0].sum().backward()
    assert largest.bytes == 4 * QWEN * tokens  # the recorder sees such a tensor


def test_no_tensor_of_a_whole_step_is_larger_than_the_budget(monkeypatch):
    """A model with Qwen2's vocabulary, forward and backward; LlamaFactory's logits are more than ten times that."""
    budget = 20 * 2**20
    monkeypatch.setattr(logps, "LOGITS_BUDGET", budget)
    model = build("qwen2", attention="eager", vocab_size=QWEN)
    batch = collate(model, TEXT_CASES["batch"])
    with LargestTensor() as largest, torch.no_grad():
        upstream_logps(model, batch)
    assert largest.bytes == 4 * QWEN * batch["input_ids"].numel() > 10 * budget
    attach(model, Choice("shared_prefix", "masked"))  # the recorder cannot look into `causal_lower_right`
    with LargestTensor() as largest:
        ours = pair_logps(model, lay_out(batch, "masked", MEDIA_IDS))
        loss_of_means(ours.logps, ours.lengths, ours.logps.detach()).backward()
    assert largest.bytes <= budget
