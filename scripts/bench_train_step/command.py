"""A preference step by LlamaFactory's forward and by the engine of this overlay: time, memory, and why."""

import argparse
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import ROOT, positive

from .counts import operations
from .sizes import KINDS, SIZES, WIDE
from .variants import UPSTREAM, VARIANTS, describe, obstacles, pairs_of, shapes_of, variants_of


DESCRIPTION = """\
Measure a preference step (forward and backward of the policy, forward of the reference) by LlamaFactory's forward, by
each part of the engine alone, and by all of it. The models are stock ones with random weights, Qwen2-VL unless --model
says otherwise; batches come from LlamaFactory's collator. Before anything is timed, every variant must give
LlamaFactory's log-probs.

Variants take turns, each turn starting with another one, so that a busy machine slows all of them. A ratio is the
time of LlamaFactory's forward by that of the variant in the same turn; shown are the median of all turns, the least
and the greatest. "Ceiling" is the ratio of operations, counted: what the variant could gain if every operation took
the same time. "Peak" is memory above the loaded models and the batch, gradients included.

On a GPU the model has a real one's sizes (bfloat16 autocast, float32 weights, gradient checkpointing), and time is
that on the wall, from idle to idle. On a CPU it is small, with the real one's proportions of text model, output layer
and vision tower, and time is CPU time of the process.
"""

EPILOG = """\
variants:
{variants}

examples:
  python scripts/bench_train_step.py                             everything: on two cores half an hour
  python scripts/bench_train_step.py --shapes 300/30 --repeats 3 --no-memory         a first look
  python scripts/bench_train_step.py --vocabulary 151936 --shapes 300/250            memory, at Qwen2-VL's vocabulary
  python scripts/bench_train_step.py --size 7b                                       on a GPU with 140 GB
  python scripts/bench_train_step.py --model qwen3_vl --no-memory                    another kind of models

Run it on a machine that does nothing else, in an environment with the overlay (bash scripts/setup.sh). With
liger-kernel installed, Liger's fused DPO loss is compared too.
"""


def main(argv: list[str] | None = None) -> int:
    """Measure, show and write; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    options.shapes = options.shapes or shapes_of(options.model)
    _refuse(parser, options)
    os.environ.setdefault("LLAMAFACTORY_VERBOSITY", "WARNING")  # of every process that measures memory, too
    try:
        import torch

        from .measure import Disagreement
    except ModuleNotFoundError as error:
        print(f"bench_train_step: {error}. Run `bash scripts/setup.sh`, then use .venv/bin/python.", file=sys.stderr)
        return 1
    try:
        written = measure(options, sys.argv[1:] if argv is None else argv)
    except (Disagreement, MemoryError, torch.OutOfMemoryError) as error:
        print(f"bench_train_step: {error}", file=sys.stderr)
        return 1
    print("all times: {}\npicture: {}".format(*written))
    return 0


def _refuse(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End where options do not fit each other."""
    missing, side = obstacles(options.model), KINDS[options.model].tokens
    for name in options.variants or ():
        if name in missing:
            parser.error(f"--variants {name}: {missing[name]}")
    for shape in options.shapes:
        if side and any(pair.image != (side, side) for pair in pairs_of(shape)):
            like = shapes_of(options.model)[0]
            parser.error(
                f"--shapes {shape}: every image of {options.model} takes {side} x {side} tokens, as {like} has"
            )
    if options.size and options.size not in SIZES[options.model]:
        parser.error(f"--size {options.size}: {options.model} has {', '.join(SIZES[options.model])}")
    if options.vocabulary and options.model != "qwen2_vl":
        parser.error("--vocabulary is for --model qwen2_vl")


def _parser() -> argparse.ArgumentParser:
    wide = argparse.RawDescriptionHelpFormatter
    variants = "\n".join(f"  {name:20}{variant.about}" for name, variant in VARIANTS.items())
    it = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG.format(variants=variants), formatter_class=wide
    )
    shapes = "PROMPT/ANSWER in tokens, for one pair with one image, or `mixed`: four pairs of different lengths"
    it.add_argument(
        "--shapes", nargs="+", type=_shape, metavar="SHAPE", help=f"{shapes} (default: those of the published tables)"
    )
    kinds = "kind of models (default: qwen2_vl); others are " + ", ".join(name for name in KINDS if name != "qwen2_vl")
    it.add_argument("--model", choices=KINDS, default="qwen2_vl", metavar="KIND", help=kinds)
    others = [name for name in VARIANTS if name != UPSTREAM]
    it.add_argument("--variants", nargs="+", choices=others, metavar="NAME", help="besides upstream (default: all)")
    it.add_argument("--repeats", type=positive, default=5, metavar="N", help="turns that count (default: 5)")
    it.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True, help="measure peak memory too")
    model = it.add_mutually_exclusive_group()
    sizes = "small, 2b or 7b of Qwen2-VL; small or one other of another kind (default: small on a CPU, else the first)"
    model.add_argument("--size", metavar="SIZE", help=sizes)
    model.add_argument("--vocabulary", type=_vocabulary, metavar="N", help="instead, a tiny model with so many tokens")
    it.add_argument("--threads", type=positive, default=1, metavar="N", help="of torch on the CPU (default: 1)")
    output = ROOT / "outputs" / "bench_train_step"
    about = "where results.json and ratios.png go (default: outputs/bench_train_step)"
    it.add_argument("--output", type=_folder, default=output, metavar="FOLDER", help=about)
    return it


def _vocabulary(text: str) -> int:
    if int(text) < 2000:  # the tokenizer's special ones are among the first thousand
        raise argparse.ArgumentTypeError("must be at least 2000")
    return int(text)


def _folder(text: str) -> Path:
    if Path(text).exists() and not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a file; name a folder")
    return Path(text)


def _shape(text: str) -> str:
    try:
        pairs_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def measure(options: argparse.Namespace, words: list[str]) -> tuple[Path, Path]:
    """Measure all shapes, showing and writing each as it is done; return where."""
    import torch
    from tqdm import tqdm

    from bench_common import surroundings

    from . import models, report
    from .measure import can_measure_memory

    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    small, real, *_ = SIZES[options.model]
    sizes = SIZES[options.model][options.size or (real if device == "cuda" else small)]
    if options.vocabulary:
        sizes = replace(WIDE, vocabulary=options.vocabulary)
    missing = obstacles(options.model)
    for name, why in missing.items():
        print(f"not compared: {name}: {why}")
    memory = options.memory and can_measure_memory()
    if options.memory and not memory:
        print("no memory measured: this system does not let a process reset its peak")
    chosen = options.variants or VARIANTS.keys() - missing.keys()
    names = [name for name in VARIANTS if name == UPSTREAM or name in chosen]
    built = models.build(sizes, device)
    result = {
        "command": shlex.join(["python", "scripts/bench_train_step.py", *words]),
        **surroundings("llamafactory", "transformers", "torch", "liger-kernel"),
        "clock": "wall, from idle to idle" if device == "cuda" else "CPU time of the process",
        "precision": "bfloat16 autocast over float32 weights" if device == "cuda" else "float32",
        "model": {"sizes": vars(sizes), "parameters": models.parameters(built)},
        "not_compared": missing,
        "shapes": [],
    }
    with tqdm(total=len(options.shapes) * len(names) * (options.repeats + memory), unit="step") as bar:
        for name in options.shapes:
            result["shapes"].append(measure_shape(built, name, names, options.repeats, memory, bar))
            written = report.write(result, options.output)
    return written


def measure_shape(built: Any, name: str, names: list[str], repeats: int, memory: bool, bar: Any) -> dict[str, Any]:
    """Check, time and weigh all variants on one shape."""
    import psutil

    from . import measure, report
    from .steps import Steps

    pairs, sizes, on_gpu = pairs_of(name), built.sizes, built.device.type == "cuda"
    needed, free = measure.upstream_bytes(sizes, pairs), psutil.virtual_memory().available
    if not on_gpu and needed > free:
        raise MemoryError(
            f"upstream's logits of {name} take about {needed / 1e9:.0f} GB, and {free / 1e9:.0f} GB are free. Leave "
            "that shape out with --shapes, or choose a smaller --vocabulary."
        )
    bar.set_description(name)
    steps = Steps(built, pairs)
    off = measure.check(steps, names)
    counts = {each: operations(sizes, pairs, variants_of(sizes.kind)[each], steps.chunks(each)) for each in names}
    found = report.summary(measure.timings(steps, names, repeats, bar.update), pairs, counts)
    for each in names:
        found[each]["off_by"] = off[each]
        if memory:
            peak = measure.peak_on_gpu(steps, each) if on_gpu else measure.peak_on_cpu(sizes, pairs, each)
            found[each]["peak_bytes"] = peak
            bar.update()
    result = {"shape": name, "about": describe(pairs), "pairs": [vars(pair) for pair in pairs], "variants": found}
    bar.write("\n" + report.table(result))
    sys.stdout.flush()  # also where it goes to a file
    return result
