"""What a checkpoint can do: our own exam, which knows every answer's true quality, and VLMEvalKit's scores."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import ToolError
from demo.exam import accuracy, exam, mark
from demo.generate import Answerer
from demo.questions import KINDS

from .plan import Size
from .seeds import TEST_SEED, VAL_SEED


def examine(model: Path, split: str, size: Size, seed: int) -> dict[str, Any]:
    """Ask our own questions.

    Returns:
        Shares of right answers over all, "accuracy", and by kind; "quality", the mean of the rule's scores, 0 to 10.
    """
    questions = exam(split, size.exam, (VAL_SEED if split == "val" else TEST_SEED) + seed)
    answers = Answerer(model).answers([(question.text, image) for question, image in questions])
    table = accuracy(mark([question for question, _ in questions], [texts[0] for texts in answers]))
    return {
        "accuracy": table["all"]["accuracy"],
        "quality": table["all"]["mean_score"],
        "kinds": {kind: table[kind]["accuracy"] for kind in KINDS},
    }


def benchmark(model: Path, benchmarks: Path, scratch: Path) -> dict[str, float]:
    """Let VLMEvalKit ask and score its four benchmarks of the demo world, in batches.

    Returns:
        Its headline numbers in per cent by benchmark, and their mean as "mean".

    Raises:
        ToolError: VLMEvalKit failed or left a number out.
    """
    from vlmeval.uni_dpo.cli import main  # takes seconds to import, and not every cell needs it

    os.environ["LMUData"] = str(benchmarks)
    command = ["--config", str(benchmarks / "config.json"), "--model", f"model={model}", "--work-dir", str(scratch)]
    with _unpacked(benchmarks):
        failed = main(command)
    if failed:
        raise ToolError(f"VLMEvalKit failed on {model}: see the log")
    scores = _headlines(scratch)
    shutil.rmtree(scratch)
    return {**scores, "mean": round(sum(scores.values()) / len(scores), 4)}


@contextmanager
def _unpacked(benchmarks: Path) -> Iterator[None]:
    """Let one process alone be the first: VLMEvalKit unpacks pictures as it needs them, and not in one piece."""
    done = benchmarks / "unpacked"
    with open(benchmarks / "lock", "w", encoding="utf-8") as lock:
        if not done.exists():
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
        done.touch()


def _headlines(work_dir: Path) -> dict[str, float]:
    from summarize_eval.folders import find_checkpoints
    from summarize_eval.results import collect, data_sets

    checkpoints = find_checkpoints([f"model={work_dir / 'model'}"])
    results = collect(checkpoints, data_sets(checkpoints, None))
    missing = [f"{data}: {result.note}" for (_, data), result in results.items() if result.score is None]
    if missing:
        raise ToolError("VLMEvalKit left no score for " + "; ".join(missing))
    return {data.removeprefix("DemoWorld_").split("_")[0]: result.score.value for (_, data), result in results.items()}


def training_log(out: Path) -> dict[str, float]:
    """The last training metrics of a run, those that all losses share and those of Uni-DPO."""
    history = json.loads((out / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    last = [entry for entry in history if "rewards/accuracies" in entry][-3:]
    names = ("loss", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected")
    names += tuple(f"uni_dpo/{name}" for name in ("w_qual", "w_perf", "nll_weight"))
    shown = {name: [entry[name] for entry in last if name in entry] for name in names}
    return {name: round(sum(values) / len(values), 5) for name, values in shown.items() if values}
