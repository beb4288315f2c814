"""Train many runs, each in processes of its own, for the price of one start: `python fork_ranks.py JOBS.json`.

JOBS.json lists jobs, each with a `folder`, `ranks`, the `environment` of its processes and the `options` of
LlamaFactory. Most of a short run is spent on imports. Here one process imports everything and forks the ranks of one
job after the other, each with what torchrun would tell it (0 ranks: one process that is told nothing). So no run sees
what another has left in memory. What a rank prints goes to `folder/rank-N.log`, and `folder/status` gets their exit
statuses; when one fails the others are ended, as torchrun does.
"""

import json
import os
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path

import deepspeed
import torch

from llamafactory.train.tuner import run_exp


def work(job: dict, rank: int, port: int) -> None:
    """Be one rank of a job; never return."""
    status = 1
    try:
        log = os.open(f"{job['folder']}/rank-{rank}.log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ |= job["environment"] | _as_torchrun(job["ranks"], rank, port)
        if "deepspeed" in job["options"]:
            # With `use_cpu`, accelerate starts torch's processes but not DeepSpeed's view of them.
            deepspeed.init_distributed("gloo")
        if job["ranks"]:
            # LlamaFactory's last call; gloo may abort a rank whose connections the other has closed before it.
            torch.distributed.destroy_process_group = torch.distributed.barrier
        run_exp(job["options"])
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _as_torchrun(ranks: int, rank: int, port: int) -> dict[str, str]:
    if not ranks:
        return {}
    told = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    return {name: str(value) for name, value in told.items()} | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def train(job: dict) -> list[int]:
    """Fork the ranks of a job and return their exit statuses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = {}
    for rank in range(max(1, job["ranks"])):
        process = os.fork()
        if process == 0:
            work(job, rank, port)
        running[process] = rank
    statuses = [0] * len(running)
    while running:
        process, status = os.wait()
        rank = running.pop(process)
        statuses[rank] = os.waitstatus_to_exitcode(status)
        if statuses[rank] > 0:
            for other in running:
                os.kill(other, signal.SIGKILL)
    return statuses


if __name__ == "__main__":
    assert threading.active_count() == 1, "a forked process would have only one of these threads"
    for job in json.loads(Path(sys.argv[1]).read_text()):
        Path(job["folder"]).mkdir(parents=True, exist_ok=True)
        Path(job["folder"], "status").write_text(json.dumps(train(job)))
