"""Train many runs, each in processes of its own, for the price of one import (`forked.Host.train`).

A job has a `folder`, `ranks`, the `environment` of its processes and the `options` of LlamaFactory, or a `call`, a
function MODULE:NAME with an `argv`, instead. The host forks the ranks of one job after the other, each with what
torchrun would tell it (0 ranks: one process that is told nothing). So no run sees what another has left in memory.
What a rank prints goes to `folder/rank-N.log`, and `folder/status` gets their exit statuses; when one fails the others
are ended, as torchrun does. A job with `kill: [RANK, SHARE]` loses that rank after its first step, and so much of the
time that the first job took from there to its end. One with `probe: true` says what its first step holds in which
precision.
"""

import contextlib
import importlib
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import DistributedType, PartialState
from accelerate.state import AcceleratorState
from gloo import connect_ranks
from precision_probe import Precisions
from torch.distributed import fsdp
from transformers import TrainerCallback, training_args

from llamafactory.train.tuner import run_exp


def work(job: dict, rank: int, port: int, prepare: Callable[[], None]) -> None:
    """Be one rank of a job; never return."""
    status = 1
    try:
        log = os.open(f"{job['folder']}/rank-{rank}.log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        prepare()
        os.environ |= job["environment"] | _as_torchrun(job["ranks"], rank, port)
        if "ACCELERATE_TORCH_DEVICE" in job["environment"]:
            _let_fsdp_run_on_a_cpu()
        if job["environment"].get("DS_ACCELERATOR"):
            connect_ranks()
        if job.get("resumes"):  # transformers asks torch for the device "cpu:0", of which torch knows only "cpu"
            torch.serialization.register_package(0, lambda _: None, lambda it, place: it if place == "cpu:0" else None)
        if job["ranks"]:
            # LlamaFactory's last call; gloo may abort a rank whose connections the other has closed before it.
            torch.distributed.destroy_process_group = torch.distributed.barrier
        if "call" in job:
            sys.argv, (module, name) = [job["call"], *job["argv"]], job["call"].split(":")
            getattr(importlib.import_module(module), name)()
        else:
            run_exp(job["options"], callbacks=[Sharing(), *([Precisions()] if job.get("probe") else [])])
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class Sharing(TrainerCallback):
    """Prints by which strategy the ranks train, and how much of the model this one holds: options may be ignored."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Look once, after the first step."""
        if state.global_step == 1:
            accelerate = AcceleratorState()
            found = {"type": accelerate.distributed_type.name, "held": sum(map(_held, model.parameters()))}
            if accelerate.distributed_type == DistributedType.DEEPSPEED:
                found["stage"] = accelerate.deepspeed_plugin.zero_stage
            print(f"\nsharing: {json.dumps(found)}", flush=True)  # a bar may stand in the line
            if state.is_world_process_zero:
                os.kill(os.getppid(), signal.SIGUSR1)


def _held(weight: torch.nn.Parameter) -> int:
    if hasattr(weight, "ds_tensor"):
        return weight.ds_tensor.numel()
    return (weight.to_local() if hasattr(weight, "to_local") else weight).numel()


def _let_fsdp_run_on_a_cpu() -> None:
    """Have accelerate take the CPU for a device.

    torch shards models on a CPU too, and transformers and accelerate do with it what they do on a device, but for
    three things: accelerate looks for a device of its list and falls back on DDP without a word if there is none; on
    saving it moves FSDP1's weights to the CPU, where torch frees them if they were there already; and transformers
    takes bfloat16 on a CPU only with `use_cpu`, which is DDP.
    """
    training_args.is_torch_bf16_gpu_available = lambda: True
    PartialState._prepare_backend = lambda self, *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)
    config = fsdp.FullStateDictConfig
    fsdp.FullStateDictConfig = lambda **kwargs: config(offload_to_cpu=False, rank0_only=False)


def _as_torchrun(ranks: int, rank: int, port: int) -> dict[str, str]:
    if not ranks:
        return {}
    told = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    return {name: str(value) for name, value in told.items()} | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def _kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def train(job: dict, usual: float | None, prepare: Callable[[], None]) -> tuple[list[int], float]:
    """Fork the ranks of a job; return their exit statuses, and the seconds from its first step, or fork, to its end.

    The first job took `usual` seconds from its first step on.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running, times = {}, [time.monotonic()]
    for rank in range(max(1, job["ranks"])):
        process = os.fork()
        if process == 0:
            work(job, rank, port, prepare)
        running[process] = rank

    def stepped(*_: object) -> None:  # os.wait goes on after a signal
        times.append(time.monotonic())
        if "kill" in job:
            signal.setitimer(signal.ITIMER_REAL, max(job["kill"][1] * usual, 1e-6))

    doomed = next((process for process, rank in running.items() if rank == job.get("kill", [None])[0]), None)
    signal.signal(signal.SIGUSR1, stepped)
    signal.signal(signal.SIGALRM, lambda *_: _kill(doomed))
    statuses = [0] * len(running)
    while running:
        process, status = os.wait()
        rank = running.pop(process)
        statuses[rank] = os.waitstatus_to_exitcode(status)
        if statuses[rank]:
            for other in running:
                _kill(other)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return statuses, time.monotonic() - times[-1]


def train_all(jobs: list[dict], prepare: Callable[[], None]) -> None:
    """Train jobs one after the other; `prepare` is called in each process before it begins."""
    usual = None
    for job in jobs:
        Path(job["folder"]).mkdir(parents=True, exist_ok=True)
        statuses, seconds = train(job, usual, prepare)
        Path(job["folder"], "status").write_text(json.dumps(statuses))
        usual = usual or seconds
