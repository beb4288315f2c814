"""Fit a run to the machine: processes, precision, attention, ZeRO, workers, accumulation, and the command."""

import importlib
import importlib.util
import os
import shutil
import sys
from pathlib import Path

from pair_data.errors import DataError

from . import EXAMPLES
from .gpus import Gpu, seen_by_driver, seen_by_torch
from .settings import Run, whole_number


GLOBAL_BATCH = 128  # preference pairs a step, in all published runs
BYTES_PER_PIXEL = 24  # of a processed image: three colours in float32, twice, as the model wants two frames
NO_CUDA = "it is a build without CUDA, or the driver is too old for it"
MB, GB = 1e6, 1e9
# Less memory lost to fragments, which batches of ever other lengths leave; LlamaFactory sets it for several GPUs only.
CUDA_MEMORY = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}


def fit_to_machine(run: Run, trust_gpus: bool) -> None:
    """Choose what depends on the machine, wherever the user did not.

    `trust_gpus` takes GPUS as it is given, to show the settings for another machine.
    """
    wanted = run.number("GPUS", 0, least=0) if "GPUS" in run.variables else None
    there = [] if wanted == 0 or (wanted and trust_gpus) else seen_by_torch()
    hidden = [] if wanted == 0 or there else seen_by_driver()
    unseen = f"nvidia-smi shows the {hidden[0].name}, which this PyTorch does not see: {NO_CUDA}" if hidden else ""
    if wanted is not None and wanted > len(there) and not trust_gpus:
        why = f"  {unseen}\n" if unseen else ""
        raise DataError(f"GPUS={wanted}, but PyTorch sees {len(there)}\n{why}  leave GPUS out to use them all")
    run.gpus = len(there) if wanted is None else wanted
    run.cards = (there or hidden)[: run.gpus]
    if run.gpus > len(run.cards):  # those of another machine
        run.cards = []
    run.processes = run.gpus or run.number("NPROC_PER_NODE", 1)
    run.nodes = run.number("NNODES", 1)
    if run.gpus:
        _fit_precision(run)
        _fit_attention(run)
        if run.world_size > 1:
            run.suggest("deepspeed", str(EXAMPLES / "ds_z2.json"))
    else:
        run.suggest("bf16", False)
        run.suggest("fp16", False)
        run.notes.append("no GPU: training on the CPU in float32, which is for small models only")
        run.notes += [unseen] if unseen else []
    _fit_workers(run)
    _fit_shared_memory(run, shared_memory())
    _fit_accumulation(run)
    _fit_prefetching(run, shared_memory())


def _fit_precision(run: Run) -> None:
    """Fall back to float16 on GPUs that only emulate bfloat16."""
    if any(gpu.is_old for gpu in run.cards):
        run.suggest("bf16", False)
        run.suggest("fp16", not run.settings.get("bf16"))
        run.notes.append("these GPUs have no bfloat16: training in float16")


def _fit_attention(run: Run) -> None:
    """Ask for FlashAttention-2 where it is installed and works; LlamaFactory's `auto` never does."""
    wanted = run.settings.get("flash_attn", "auto")
    if wanted not in ("auto", "fa2"):
        return
    reason = _why_no_flash_attention(run.cards)
    if wanted == "auto":
        run.suggest("flash_attn", "sdpa" if reason else "fa2")
    if reason:
        does = "PyTorch's attention (sdpa)" if run.settings["flash_attn"] == "sdpa" else "flash_attn=fa2 all the same"
        run.notes.append(f"{reason}: using {does}")


def _why_no_flash_attention(cards: list[Gpu]) -> str:
    if importlib.util.find_spec("flash_attn") is None:
        return "flash-attn is not installed"
    old = next((gpu.name for gpu in cards if gpu.is_old), None)
    if old:
        return f"flash-attn needs a GPU of the Ampere kind or later, which the {old} is not"
    try:
        importlib.import_module("flash_attn")
    except Exception as error:  # most often it was built for another PyTorch
        return f"flash-attn does not load ({str(error).partition(chr(10))[0][:120] or type(error).__name__})"
    return ""


def _fit_workers(run: Run) -> None:
    """Lower the YAML's worker counts to what the cores allow; a training on the CPU needs the cores itself."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    preparing, loading = (run.option(f"{kind}_num_workers", 0, 0) for kind in ("preprocessing", "dataloader"))
    run.suggest("preprocessing_num_workers", max(1, min(preparing, cores)))
    run.suggest("dataloader_num_workers", max(0, min(loading, cores // run.processes - 1)) if run.gpus else 0)
    _without_workers(run)


def _without_workers(run: Run) -> None:
    """Take out the two options that PyTorch refuses where there are no workers."""
    if run.settings["dataloader_num_workers"] == 0:
        run.settings.pop("dataloader_prefetch_factor", None)
        run.settings.pop("dataloader_persistent_workers", None)


def shared_memory() -> int | None:
    """Return the bytes free in /dev/shm, where workers leave their batches; None where there is no such place."""
    return shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else None


def _fit_shared_memory(run: Run, room: int | None) -> None:
    """Have no more workers than their batches have room; Docker gives 64 MB, and a full /dev/shm is a bus error."""
    workers = run.settings["dataloader_num_workers"]
    if not workers or room is None:
        return
    ahead, batch = run.option("dataloader_prefetch_factor", 2), _bytes_of_batch(run)
    needed = run.processes * (workers * ahead + 1) * batch
    if needed <= room:
        return
    batches = max(0, room // (run.processes * batch) - 1)
    if batches < ahead and "dataloader_prefetch_factor" not in run.given:
        ahead = 1
        run.suggest("dataloader_prefetch_factor", ahead)
    fits = min(workers, batches // ahead)
    run.suggest("dataloader_num_workers", fits)
    _without_workers(run)
    does = f"using {_counted(fits, 'worker')}" if run.settings["dataloader_num_workers"] == fits else "it may not do"
    run.notes.append(
        f"/dev/shm has {room / MB:.0f} MB free, and {_counted(workers, 'worker')} on each of "
        f"{_counted(run.processes, 'GPU')} may fill {needed / MB:.0f} MB: {does} (in Docker: --shm-size=8g)"
    )


def _bytes_of_batch(run: Run) -> int:
    """Return what a batch takes in which each pair has one image of the largest size."""
    from pair_data.images import MAX_PIXELS

    pixels = run.settings.get("image_max_pixels")
    pixels = pixels if isinstance(pixels, int) and pixels > 0 else MAX_PIXELS
    return run.option("per_device_train_batch_size", 1) * pixels * BYTES_PER_PIXEL


def _fit_prefetching(run: Run, room: int | None) -> None:
    """Have workers prepare a whole step, within half the room: the trainer asks for all its batches at once."""
    workers, name = run.settings["dataloader_num_workers"], "dataloader_prefetch_factor"
    if not workers or name in run.given:
        return
    steps, ahead = run.settings["gradient_accumulation_steps"], run.option(name, 2)
    each = run.processes * workers * _bytes_of_batch(run)
    wanted = min(-(-steps // workers), steps if room is None else room // 2 // each)
    if wanted <= ahead:
        return
    run.suggest(name, wanted)
    run.notes.append(
        f"{_counted(workers, 'worker')} prepare {wanted} batches ahead each, of {steps} that a step takes at once: up "
        f"to {wanted * each / GB:.1f} GB of memory"
    )


def _fit_accumulation(run: Run) -> None:
    """Set gradient_accumulation_steps such that a step sees the global batch."""
    batch, name = "per_device_train_batch_size", "gradient_accumulation_steps"
    pairs = whole_number(batch, run.settings.get(batch, 1), least=1)
    at_once = run.world_size * pairs
    wanted = run.number("GLOBAL_BATCH", GLOBAL_BATCH)
    shape = f"{_counted(run.processes, 'GPU' if run.gpus else 'CPU process')} x {_counted(pairs, 'pair')}"
    if run.nodes > 1:
        shape = f"{run.nodes} machines x {shape}"
    steps, left_over = divmod(wanted, at_once)
    if name in run.given:
        steps = whole_number(name, run.settings[name], least=1)
        if "GLOBAL_BATCH" in run.variables and steps * at_once != wanted:
            raise DataError(
                f"{shape} x {name}={steps} = {steps * at_once} pairs a step, but GLOBAL_BATCH={wanted}\n"
                "  leave one of the two out"
            )
    elif left_over:
        nearest = [f"GLOBAL_BATCH={count}" for count in (steps * at_once, (steps + 1) * at_once) if count]
        raise DataError(
            f"{shape} = {at_once} pairs at once, which do not divide the global batch of {wanted}\n"
            f"  use another number of GPUs or another BATCH, or the nearest global batch that works: "
            f"{' or '.join(nearest)}"
        )
    run.settings[name] = steps
    run.notes.append(f"{shape} x {steps} accumulated = {at_once * steps} pairs a step")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "es" if noun.endswith("s") else "s")


def build_command(run: Run, config: Path) -> tuple[list[str], dict[str, str]]:
    """Return the training command, and the environment variables it needs beside the present ones.

    LlamaFactory's own launcher splits its torchrun command at every space, those inside paths included. So several
    processes are started with torchrun itself, on the module which that launcher would have named.
    """
    variables = {"PYTHONUNBUFFERED": "1"}  # or the log lags behind the training
    if "HF_UPDATE_DOWNLOAD_COUNTS" not in run.variables:  # `datasets` reports every file it loads, local ones too
        variables["HF_UPDATE_DOWNLOAD_COUNTS"] = "0"
    if run.is_checkout:
        present = [run.variables["PYTHONPATH"]] if "PYTHONPATH" in run.variables else []
        variables["PYTHONPATH"] = os.pathsep.join([str(run.root / "src"), *present])
    if "GPUS" in run.variables:
        visible = run.variables.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(run.gpus)))).split(",")
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(visible[: run.gpus])
    if run.gpus:
        variables |= {name: value for name, value in CUDA_MEMORY.items() if name not in run.variables}
    if run.world_size == 1 and not run.settings.get("deepspeed") and "FORCE_TORCHRUN" not in run.variables:
        return [sys.executable, "-m", "llamafactory.cli", "train", str(config)], variables
    torchrun = [sys.executable, "-m", "torch.distributed.run", *_rendezvous(run), f"--nproc_per_node={run.processes}"]
    return [*torchrun, "-m", "llamafactory.launcher", str(config)], variables


def _rendezvous(run: Run) -> list[str]:
    """Return torchrun's options that let the processes of all machines find each other."""
    if run.nodes == 1:
        port = run.variables.get("MASTER_PORT")
        return [f"--master_port={port}"] if port else ["--standalone"]  # standalone: any free port
    if "MASTER_ADDR" not in run.variables or "NODE_RANK" not in run.variables:
        raise DataError(
            f"NNODES={run.nodes} needs MASTER_ADDR, the address of the first machine, and NODE_RANK, 0 on the first\n"
            "  start the same command on every machine, each with its own NODE_RANK"
        )
    where = {"nnodes": run.nodes, "node_rank": run.node_rank, "master_addr": run.variables["MASTER_ADDR"]}
    where["master_port"] = run.number("MASTER_PORT", 29500)
    return [f"--{name}={value}" for name, value in where.items()]
