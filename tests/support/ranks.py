"""Runs on several ranks, by every strategy that LlamaFactory knows, and how far they are from a run on one."""

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forked
import pytest
from pairs import log_history
from safetensors.torch import load_file

from llamafactory.train.uni_dpo.record.pair_log import PAIR_LOG, read_pair_log


BY_UPSTREAM = pytest.mark.skipif(
    " " in sys.prefix, reason="LlamaFactory starts several processes by a command that it splits at spaces"
)
TWO_RANKS = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2", "MASTER_ADDR": "127.0.0.1"}
AUTO = {
    name: "auto"
    for name in (
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
        "zero_allow_untested_optimizer",
    )
}
# By default every rank keeps all of a weight as small as those of a tiny model.
ZERO3 = {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True, "stage3_param_persistence_threshold": 0}
ZERO = {"zero1": {"stage": 1}, "zero2": {"stage": 2}, "zero3": ZERO3}

QWEN2_VL = "Qwen2VLDecoderLayer,Qwen2VLVisionBlock"
# What `accelerate launch` tells its processes, and the device, on which `rank_jobs.py` then lets FSDP run.
FSDP = {
    "ACCELERATE_TORCH_DEVICE": "cpu",
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}
VERSIONS = {
    "fsdp1": {"FSDP_VERSION": "1", "FSDP_SHARDING_STRATEGY": "FULL_SHARD"},
    "fsdp2": {"FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"},
}


def job(folder: Path, strategy: str, ranks: int, run: dict[str, Any], wrapped: str = QWEN2_VL) -> dict[str, Any]:
    """Describe a run of LlamaFactory with the options `run` for `rank_jobs.py`; its output is `folder/out`.

    Args:
        folder: for everything about it; made here.
        strategy: "ddp", or a key of `ZERO` or `VERSIONS`; means nothing for a single process.
        ranks: how many; 0 is one process without a process group.
        run: LlamaFactory's options.
        wrapped: the layers that FSDP shards.
    """
    folder.mkdir(parents=True)
    run, environment = run | {"output_dir": str(folder / "out")}, {}
    if strategy in ZERO:
        (folder / "zero.json").write_text(json.dumps({"zero_optimization": ZERO[strategy], **AUTO}))
        run, environment = run | {"deepspeed": str(folder / "zero.json"), "use_cpu": True}, {"DS_ACCELERATOR": "cpu"}
    elif strategy in VERSIONS:
        environment = FSDP | VERSIONS[strategy] | {"FSDP_TRANSFORMER_CLS_TO_WRAP": wrapped}
    return {"folder": str(folder), "ranks": ranks, "environment": environment, "options": run}


def train_jobs(jobs: Iterable[dict[str, Any]]) -> None:
    """Train jobs that `job` made one after the other, whether or not they end well."""
    forked.shared().train(list(jobs))


def said(folder: Path, rank: int = 0) -> str:
    """Return what a rank of a job printed."""
    return (folder / f"rank-{rank}.log").read_text()


def statuses(folder: Path) -> list[int]:
    """Return the exit statuses of a job's ranks."""
    return json.loads((folder / "status").read_text())


def sharing(folder: Path) -> list[dict[str, Any]]:
    """Return what each rank of a job said of the strategy it trained by."""
    logs = [said(folder, rank).splitlines() for rank in range(len(statuses(folder)))]
    return [json.loads(line[9:]) for log in logs for line in log if line.startswith("sharing: ")]


@dataclass(frozen=True)
class Course:
    """What two runs are compared by.

    Attributes:
        losses: of every pair by step and row.
        norms: of the gradient, of every step.
        weights: after the last step.
    """

    losses: dict[tuple[int, int], float]
    norms: list[float]
    weights: dict[str, Any]

    def off(self, other: "Course") -> tuple[float, float]:
        """Return how far this run is from another.

        Returns:
            The worst relative deviation of a step's loss or gradient norm, and the worst of any weight.

        Raises:
            AssertionError: their steps took other pairs, or they trained other weights.
        """
        assert self.losses.keys() == other.losses.keys()
        assert self.weights.keys() - other.weights.keys() <= {"lm_head.weight"}  # DeepSpeed also saves the tied one
        curves = zip([*self.curve(), *self.norms], [*other.curve(), *other.norms], strict=True)
        pairs = ((self.weights[name].float(), weight.float()) for name, weight in other.weights.items())
        return max(abs(a - b) / abs(b) for a, b in curves), max(float((a - b).abs().max()) for a, b in pairs)

    def curve(self) -> list[float]:
        """Return the loss of every step, the mean over its pairs."""
        steps: dict[int, list[float]] = {}
        for (step, _), loss in sorted(self.losses.items()):
            steps.setdefault(step, []).append(loss)
        return [sum(losses) / len(losses) for losses in steps.values()]


def course(output: Path, rows: int) -> Course:
    """Read what a run with `uni_dpo_log_pairs` left; rows of the data set from `rows` on repeat the first ones."""
    logged = read_pair_log(str(output / PAIR_LOG))
    losses = {(row["step"], row["row"] % rows): row["loss"] for row in logged}
    assert len(losses) == len(logged), "a step took a pair twice"
    norms = [entry["grad_norm"] for entry in log_history(output) if "grad_norm" in entry]
    (file,) = output.glob("*.safetensors")
    return Course(losses, norms, load_file(file))
