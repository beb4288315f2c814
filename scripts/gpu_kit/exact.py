"""The engine beside LlamaFactory's forward on a device: log-probs and every gradient, and a mistake that must show.

    python scripts/gpu_kit/exact.py FOLDER [--device cpu] [--kinds qwen2_vl qwen3_vl]

For each kind of models a small random one and two pairs; in float32, TF32 and bfloat16 on a GPU, in float32 on a CPU.
Shown is how far the engine is from LlamaFactory's forward, and how far both are from LlamaFactory's in float32.
"""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch.nn.attention.bias import causal_lower_right  # noqa: E402

from bench_common import surroundings  # noqa: E402
from bench_train_step.models import Models, build  # noqa: E402
from bench_train_step.sizes import KINDS, SIZES  # noqa: E402
from bench_train_step.steps import Steps  # noqa: E402
from bench_train_step.variants import UPSTREAM, Pair  # noqa: E402
from common import write_json  # noqa: E402
from llamafactory.train.uni_dpo.engine import attention, has_varlen, logps  # noqa: E402


# Differences relative to the largest entry. In half precision the engine may be this many times as far from float32 as
# LlamaFactory's forward is.
BOUNDS = {"float32": 1e-3, "tf32": 2e-2, "bfloat16": 0.1}
NO_WORSE = 3.0
SHOWS = 10.0  # times the bound that a mistake in float32 must exceed
FASTEST = "everything"


class ExactSteps(Steps):
    """Steps whose precision is chosen, whatever the device."""

    half = False

    def _autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.models.device.type, torch.bfloat16, enabled=self.half)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 1 if something is not exact."""
    it = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    it.add_argument("folder", type=Path, help="where results.json goes")
    it.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="default: %(default)s")
    it.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND", help="default: all")
    options = it.parse_args(argv)
    torch.set_num_threads(1)
    result = {**surroundings("torch", "transformers", "llamafactory"), "checks": []}
    for check in checks(options.kinds, options.device):
        print(f"{check['name']}: {'ok' if check['ok'] else 'WRONG'}, {check['seen']}", flush=True)
        result["checks"].append(check)
        write_json(options.folder / "results.json", result)  # a run that is cut off leaves what it has seen
    return 0 if all(check["ok"] for check in result["checks"]) else 1


def checks(kinds: list[str], device: str) -> Iterator[dict[str, Any]]:
    """Look at each thing in turn; yield its name, whether it is as it must be, and what was seen."""
    yield lower_right(device)
    if device == "cuda":
        yield one_kernel()
    yield chunked_head(device)
    for kind in kinds:
        yield from of_kind(kind, device)


def of_kind(kind: str, device: str) -> Iterator[dict[str, Any]]:
    """Compare one kind of models in each precision, then with each mistake."""
    sizes = replace(SIZES[kind]["small"], checkpointing=True)
    models = build(sizes, "cpu")
    models = Models(sizes, models.policy.to(device), models.reference.to(device), models.processor)
    side = KINDS[kind].tokens or 8
    lengths = ((side**2 + 30, 40, 22), (side**2 + 24, 12, 33))
    steps = ExactSteps(models, tuple(Pair(prompt, (side, side), *answers) for prompt, *answers in lengths))
    exact = _step(steps, UPSTREAM)
    for precision in BOUNDS if device == "cuda" else ("float32",):
        with _precision(steps, precision):
            theirs, ours = _step(steps, UPSTREAM), _step(steps, FASTEST)
        off, own, far = _distance(ours, theirs), _distance(theirs, exact), _distance(ours, exact)
        ok = off < BOUNDS[precision] and (precision == "float32" or far < NO_WORSE * max(own, 1e-6))
        seen = f"{off:.1e} from LlamaFactory's; from float32: ours {far:.1e}, LlamaFactory's {own:.1e}"
        yield {"name": f"{kind}, {precision}", "ok": ok, "seen": seen}
    if KINDS[kind].shares:
        layout = steps.batches["packed"]["pair_layout"]
        layout.spans = [(sum(span), 0, 0) for span in layout.spans]
        off = _distance(_step(steps, FASTEST), exact)
        seen = f"{off:.1e} off where the rejected answer sees the chosen one"
        yield {"name": f"{kind}, a mistake", "ok": off > SHOWS * BOUNDS["float32"], "seen": seen}


def lower_right(device: str) -> dict[str, Any]:
    """Causal attention of fewer queries than keys counts from the end, in values and gradients, in every precision."""
    worst = 0.0
    for dtype in (torch.float32, torch.bfloat16) if device == "cuda" else (torch.float32,):
        found = []
        for bias in (causal_lower_right(40, 300), torch.ones(40, 300, dtype=torch.bool, device=device).tril(260)):
            generator = torch.Generator(device).manual_seed(0)
            shapes = ((1, 4, 40, 64), (1, 4, 300, 64), (1, 4, 300, 64))
            parts = [torch.randn(shape, generator=generator, device=device, dtype=dtype) for shape in shapes]
            parts = [part.requires_grad_() for part in parts]
            out = F.scaled_dot_product_attention(*parts, attn_mask=bias)
            out.float().square().sum().backward()
            found.append([out.detach(), *(part.grad for part in parts)])
        bound = 1e-5 if dtype == torch.float32 else 2e-2
        worst = max(worst, *(_relative(a, b) / bound for a, b in zip(*found, strict=True)))
    return {"name": "causal_lower_right", "ok": worst < 1, "seen": f"{worst:.2f} of what is allowed"}


def one_kernel() -> dict[str, Any]:
    """One variable-length call for all pairs (`pref_varlen_attention`) does what two calls a pair do, in bfloat16."""
    if not has_varlen():
        return {"name": "variable-length attention", "ok": True, "seen": "this torch has none of the form we call"}
    spans, found = [(300, 40, 22), (1, 1, 1), (280, 0, 33), (90, 120, 0)], []
    length = sum(map(sum, spans))
    for way in (attention.split_attention, attention.varlen_attention):
        generator = torch.Generator("cuda").manual_seed(0)
        shapes = [(1, heads, length, 128) for heads in (12, 2, 2)]
        parts = [torch.randn(s, generator=generator, device="cuda", dtype=torch.bfloat16) for s in shapes]
        parts = [part.requires_grad_() for part in parts]
        out = way(*parts, spans, None)
        out.float().square().sum().backward()
        found.append([out.detach(), *(part.grad for part in parts)])
    worst = max(_relative(a, b) for a, b in zip(*found, strict=True))
    return {"name": "variable-length attention", "ok": worst < 2e-2, "seen": f"{worst:.1e} off"}


def chunked_head(device: str) -> dict[str, Any]:
    """Log-probs in chunks are those of all logits at once, in values and gradients."""
    found = []
    for budget in (2**40, 4 * 5000 * 7):
        generator = torch.Generator(device).manual_seed(0)
        hidden = torch.randn(50, 64, generator=generator, device=device).requires_grad_()
        weight = torch.randn(5000, 64, generator=generator, device=device).requires_grad_()
        targets = torch.arange(50, device=device)
        sums, _ = logps.linear_logps(hidden, weight, targets, budget)
        sums.square().sum().backward()
        found.append([sums.detach(), hidden.grad, weight.grad])
    worst = max(_relative(a, b) for a, b in zip(*found, strict=True))
    return {"name": "log-probs in chunks", "ok": worst < 1e-4, "seen": f"{worst:.1e} off"}


def _step(steps: Steps, name: str) -> dict[str, torch.Tensor]:
    """Run a step, and return log-probs and gradients by name."""
    steps.models.policy.zero_grad()
    found = {"log-probs": steps.run(name).float()}
    weights = steps.models.policy.named_parameters()
    found |= {name: weight.grad.float().clone() for name, weight in weights if weight.grad is not None}
    steps.models.policy.zero_grad()
    return found


def _distance(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Return the largest difference, relative to the largest entry, or to a thousandth of the largest gradient."""
    floor = 1e-3 * max(float(value.abs().max()) for name, value in theirs.items() if name != "log-probs")
    floors = dict.fromkeys(theirs, floor) | {"log-probs": 0.0}
    return max(_relative(ours[name], value, floors[name]) for name, value in theirs.items())


def _relative(ours: torch.Tensor, theirs: torch.Tensor, floor: float = 0.0) -> float:
    largest = max(float(theirs.abs().max()), floor, 1e-12)
    return float((ours.float() - theirs.float()).abs().max()) / largest


@contextlib.contextmanager
def _precision(steps: ExactSteps, name: str) -> Iterator[None]:
    steps.half = name == "bfloat16"
    torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
    try:
        yield
    finally:
        steps.half = torch.backends.cuda.matmul.allow_tf32 = False


if __name__ == "__main__":
    sys.exit(main())
