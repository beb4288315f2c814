"""The command line of the comparison of whole runs."""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from real_shape import write
from transformers import AutoProcessor, AutoTokenizer

from bench_common import surroundings
from bench_train_step.kinds import config_of
from bench_train_step.sizes import SIZES
from common import ROOT, ToolError, positive, write_json
from demo.model import write_weights
from shapes import SHAPES


DESCRIPTION = """Whole training runs beside each other: peak memory, the first step, later ones.

A random model of tiny layers with a real vocabulary, a small one with the proportions of Qwen2-VL-2B, or one of a
real shape; pairs with pictures of 448 x 448 and answers of 6 to 23 words. Tokens a second count a pair as two
sequences, each with the prompt, however many a trainer computes. On a CPU float32, one thread and CPU seconds; on a
GPU bfloat16 and seconds on the wall.
Every run is a process of its own; all take turns."""
EPILOG = """examples:
  python scripts/bench_runs.py                          LlamaFactory and ours, one and two pairs a step
  python scripts/bench_runs.py --trl one/bin/python --swift other/bin/python
                                                        and trl and ms-swift, each of an environment of its own
  python scripts/bench_runs.py --proportions --words 60 100   where layers, not the vocabulary, cost most
  python scripts/bench_runs.py --device gpu --shape Qwen2-VL-2B --batch 1 --accumulation 16"""

OURS = {"pref_loss": "uni_dpo"}
TRAINERS = {
    "LlamaFactory": ("llamafactory", {"pref_loss": "sigmoid"}),
    "ours": ("llamafactory", OURS),
    "ours, a kind that passed": ("llamafactory", OURS),
    "ours, no engine": ("llamafactory", OURS | {"pref_forward": "upstream"}),
    "ours, joined": ("llamafactory", OURS | {"pref_token_budget": 8192}),
    "ours, joined, one kernel": ("llamafactory", OURS | {"pref_token_budget": 8192, "pref_varlen_attention": True}),
    "trl": ("trl", {}),
    "trl, as on a GPU": ("trl", {"scored_only": True}),
    "ms-swift": ("swift", {}),
}
ROWS = 64
WORDS = ("a", "blue", "square", "left", "of", "the", "red", "circle", "and", "green", "triangle", "picture", "shows")


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = _parser().parse_args(argv)
    pythons = {"llamafactory": sys.executable, "trl": options.trl, "swift": options.swift}
    possible = {"ours, joined": options.accumulation > 1}
    possible["ours, joined, one kernel"] = options.accumulation > 1 and options.device == "gpu"
    names = [name for name in options.only or TRAINERS if pythons[TRAINERS[name][0]] and possible.get(name, True)]
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-runs-") as folder:
        folder = Path(folder)
        model = make(folder, options.vocabulary, options.shape, options.proportions, options.words)
        for turn in range(options.rounds):
            for batch in options.batch:
                for name in names:
                    print(f"round {turn + 1}: {name}, {batch} a step", file=sys.stderr, flush=True)
                    output = folder / f"{turn}-{batch}-{name}"
                    spec = {"model": str(model), "data": str(folder / "data"), "output": str(output)}
                    spec |= {"batch": batch, "steps": options.steps, "cpu": options.device == "cpu"}
                    spec["accumulation"] = options.accumulation
                    found.setdefault((name, batch), []).append(run(name, spec, pythons, folder))
        tokens = tokens_a_pair(model, folder / "data")
    print(table(found, tokens * options.accumulation))
    entries = [{"trainer": name, "batch": batch, "runs": runs} for (name, batch), runs in found.items()]
    machine = surroundings("torch", "transformers", "llamafactory")
    write_json(options.output, {"machine": machine, "tokens": tokens, "runs": entries})
    print(f"all numbers: {options.output}")
    return 0


def _parser() -> argparse.ArgumentParser:
    wide = argparse.RawDescriptionHelpFormatter
    it = argparse.ArgumentParser(description=DESCRIPTION, epilog=EPILOG, formatter_class=wide)
    it.add_argument(
        "--batch", type=positive, nargs="+", default=[1, 2], metavar="N", help="pairs a step (default: 1 2)"
    )
    it.add_argument("--steps", type=positive, default=6, metavar="N", help="of every run (default: %(default)s)")
    it.add_argument("--rounds", type=positive, default=1, metavar="N", help="of all runs (default: %(default)s)")
    it.add_argument("--accumulation", type=positive, default=1, metavar="N", help="times so many (default: 1)")
    it.add_argument("--only", nargs="+", choices=TRAINERS, metavar="NAME", help="of " + "; ".join(TRAINERS))
    it.add_argument("--shape", choices=SHAPES, metavar="NAME", help="a model of this shape, such as Qwen2-VL-2B")
    small = "a small model with the proportions of the 2B, and its part of the vocabulary"
    it.add_argument("--proportions", action="store_true", help=small)
    it.add_argument("--words", type=positive, nargs=2, default=[6, 23], metavar=("MIN", "MAX"), help="of an answer")
    it.add_argument("--vocabulary", type=positive, default=151936, metavar="N", help="default: %(default)s")
    it.add_argument("--device", choices=["cpu", "gpu"], default="cpu", help="default: %(default)s")
    it.add_argument("--trl", metavar="PYTHON", help="a Python that has trl 1.x and what it needs")
    it.add_argument("--swift", metavar="PYTHON", help="a Python that has ms-swift 4.x and qwen-vl-utils")
    output = ROOT / "outputs" / "bench_runs.json"
    it.add_argument("--output", type=Path, default=output, metavar="FILE", help="default: outputs/bench_runs.json")
    return it


def make(
    folder: Path, vocabulary: int, shape: str | None = None, proportions: bool = False, words: Sequence[int] = (6, 23)
) -> Path:
    """Write a random model and some pairs into a folder, and return the model's."""
    if shape:
        write(folder / "model", shape)
    else:
        write(folder / "model", small=True, vocabulary=vocabulary, dtype=torch.float32)
    if proportions:
        tokenizer = AutoTokenizer.from_pretrained(folder / "model", trust_remote_code=False)
        config_of(SIZES["qwen2_vl"]["small"], tokenizer).save_pretrained(folder / "model")
        write_weights(folder / "model", 0, torch.float32)
    data, rng, rows = folder / "data", random.Random(0), []
    data.mkdir()
    for number in range(ROWS):
        Image.frombytes("RGB", (448, 448), rng.randbytes(448 * 448 * 3)).save(data / f"{number}.png")
        answers = [" ".join(rng.choices(WORDS, k=rng.randint(*words))) for _ in range(2)]
        rows.append({"instruction": "<image>Describe the picture.", "chosen": answers[0], "rejected": answers[1]})
        rows[-1] |= {"images": [f"{number}.png"], "score_chosen": 3.0, "score_rejected": 1.0}
    (data / "pairs.json").write_text(json.dumps(rows), encoding="utf-8")
    columns = {"prompt": "instruction"} | {name: name for name in rows[0] if name != "instruction"}
    entry = {"file_name": "pairs.json", "ranking": True, "columns": columns}
    (data / "dataset_info.json").write_text(json.dumps({"pairs": entry}), encoding="utf-8")
    return folder / "model"


def tokens_a_pair(model: Path, data: Path) -> float:
    """Return how many tokens a pair has on average, as two sequences, each with the prompt and its picture."""
    processor = AutoProcessor.from_pretrained(model, trust_remote_code=False)
    rows = json.loads((data / "pairs.json").read_text(encoding="utf-8"))
    content = [{"type": "image"}, {"type": "text", "text": rows[0]["instruction"].removeprefix("<image>")}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    with Image.open(data / rows[0]["images"][0]) as picture:
        prompt = len(processor(text=[text], images=[picture])["input_ids"][0])
    answers = [len(processor.tokenizer.encode(row[name])) for row in rows for name in ("chosen", "rejected")]
    return 2 * (prompt + statistics.mean(answers))


def run(name: str, spec: dict[str, Any], pythons: dict[str, str], folder: Path) -> dict[str, Any]:
    """Start a run, by the Python of its trainer, and return what it measured.

    Raises:
        ToolError: it failed; the message has the end of what it said.
    """
    trainer, changes = TRAINERS[name]
    spec |= {"trainer": trainer, "options": changes}
    looks = "" if name.endswith("passed") else "always"
    home = {"HF_DATASETS_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "UNI_DPO_SELF_CHECK": looks}
    command = [pythons[trainer], str(Path(__file__).with_name("one_run.py")), json.dumps(spec)]
    environment = {"OMP_NUM_THREADS": "1", **os.environ, **home}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise ToolError(f"{name} ended with exit status {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def table(found: dict[tuple[str, int], list[dict[str, Any]]], tokens: float) -> str:
    """Return medians over runs as a table of Markdown; `tokens` are those that a pair of a step stands for."""
    lines = [
        "| pairs a step | trainer | peak above the loaded models, MiB | first step, s | later, s | first / later "
        "| tokens/s |",
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (name, batch), runs in sorted(found.items(), key=lambda entry: entry[0][1]):
        above = statistics.median(each["peak"] - each["loaded"] for each in runs)
        first = statistics.median(each["steps"][0] for each in runs)
        later = statistics.median(step for each in runs for step in each["steps"][1:])
        times = f"{first:.2f} | {later:.2f} | {first / later:.2f} | {batch * tokens / later:,.0f}"
        lines.append(f"| {batch} | {name} | {above:,.0f} | {times} |")
    return "\n".join(lines)
