"""Train with one of the YAML files of this folder: fit it to this machine, check what it needs, run it, keep a log.

Every option of LlamaFactory can be given as key=value, and its own parser judges it. The settings as they were used
are written to OUTPUT.effective.yaml, everything printed to OUTPUT.train.log. The same command resumes an interrupted
run, and says so when there is nothing left to do.
"""

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from launcher.checks import check_data, check_environment, check_llamafactory, check_model, disk_note
from launcher.machine import build_command, fit_to_machine
from launcher.memory import check_memory
from launcher.output import effective, last_checkpoint, make_way, plan_output, sidecar
from launcher.process import open_log, run_logged
from launcher.settings import Run, as_yaml, read_run
from pair_data.descriptions import find
from pair_data.errors import DataError
from pair_data.writing import whole_file


DIVIDED = ("uni_dpo", "simpo", "orpo", "ipo")  # losses that take means in any case

VARIABLES = """\
environment variables, also taken as arguments (NAME=value):
  MODEL         model folder or hub id              (model_name_or_path)
  DATA          data set name(s), comma-separated   (dataset)
  DATASET_DIR   folder with dataset_info.json       (dataset_dir)
  OUTPUT        where the trained model goes        (output_dir)
  BATCH         pairs on each GPU at a time         (per_device_train_batch_size)
  GLOBAL_BATCH  pairs a step; default 128, as published. gradient_accumulation_steps is derived from it
  GPUS          how many GPUs; default all that CUDA_VISIBLE_DEVICES leaves visible; 0 is the CPU
  NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT
                several machines: the same command on each, with its own NODE_RANK
  NPROC_PER_NODE  processes on a machine without GPUs; default 1
  FRESH=1       start anew (also resume=false); an earlier output is renamed, never deleted
  SKIP_MEMORY_CHECK=1  start although the GPUs have too little memory
  PYTHON        the Python to run; default that of VENV, of .venv here, or the active one (not as an argument)

An output folder that holds a run with other settings is refused; resume=true goes on there all the same.

examples:
  bash examples/uni_dpo/Qwen2_VL_2B_uni_dpo.sh --dry-run
  MODEL=/models/Qwen2-VL-2B GPUS=4 bash examples/uni_dpo/Qwen2_VL_2B_uni_dpo.sh
  bash examples/uni_dpo/Qwen2_VL_2B_dpo.sh learning_rate=6e-6 pref_beta=2.0 output_dir=outputs/dpo_matched
"""


def main() -> int:
    """Train, or show what would be done, as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="run.sh", description=__doc__, epilog=VARIABLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="YAML file with LlamaFactory options")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="options that replace those of the YAML")
    parser.add_argument("--dry-run", action="store_true", help="print the command and the settings, start nothing")
    arguments = parser.parse_intermixed_args()
    try:
        run = read_run(arguments.config, arguments.settings)
        find_data(run)
        fit_to_machine(run, trust_gpus=arguments.dry_run)
        run.notes += published_notes(run.settings)
        return show(run) if arguments.dry_run else train(run)
    except DataError as error:
        print(f"{arguments.config.stem}: {error}", file=sys.stderr)
        return 2


def find_data(run: Run) -> None:
    """Complete what the user said of the data, and say where they were found."""
    before = run.settings.get("dataset"), Path(run.settings["dataset_dir"])
    found = find(run.settings, run.given, run.root / "data")
    if found and found != before:
        run.settings |= {"dataset": found[0], "dataset_dir": str(found[1])}
        run.notes.append(f"data: {found[0]} in {found[1]}")


def show(run: Run) -> int:
    """Print what `train` would start, with which settings."""
    config = sidecar(run.output, "effective.yaml", run.node_rank)
    command, variables = build_command(run, config)
    plan = plan_output(run.output, run.settings, run.resume, run.pairs_a_step)
    try:
        run.notes += check_memory(run)
    except DataError as error:
        first, *others = str(error).splitlines()
        run.notes += [f"would be refused: {first}", *map(str.strip, others)]
    say(*run.notes, plan.note)
    print(*(f"{name}={shlex.quote(value)}" for name, value in variables.items()), shlex.join(command))
    print(f"\n# {config}\n{as_yaml(run.settings)}", end="")
    return 0


def train(run: Run) -> int:
    """Check everything a training needs, start or resume it, and return its exit status."""
    config, log_path = (sidecar(run.output, name, run.node_rank) for name in ("effective.yaml", "train.log"))
    command, variables = build_command(run, config)
    plan = plan_output(run.output, run.settings, run.resume, run.pairs_a_step)
    if plan.action == "nothing":
        say(plan.note)
        return 0
    if plan.action == "resume" and run.resume:  # or training refuses to go on with other options
        run.settings["resume_from_checkpoint"] = str(last_checkpoint(run.output))
    check_all(run)
    with open_log(log_path) as log:
        say(*run.notes, *disk_note(run.settings), plan.note, f"log: {log_path}")
        if run.node_rank == 0:
            make_way(run.output, plan)
        with whole_file(config) as file:
            file.write(effective(run.settings, run.pairs_a_step))
        status = run_logged(command, os.environ | variables, log)
    if status == 0:
        say(f"trained model: {run.output}" + (" on the first machine" if run.node_rank else ""))
    else:
        say(f"stopped with exit status {status}; log: {log_path}")
        if last_checkpoint(run.output):
            how = "without starting anew (FRESH=1, resume=false) " if run.resume is False else ""
            say(f"{how}the same command goes on from {last_checkpoint(run.output).name}")
    return status


def check_all(run: Run) -> None:
    """Refuse to start unless everything is there, naming all that is missing at once."""
    checks = (
        lambda: check_environment(run.variables),
        lambda: check_llamafactory(run.root, run.is_checkout, deepspeed=bool(run.settings.get("deepspeed"))),
        lambda: check_model(run.settings["model_name_or_path"], run.settings.get("cache_dir"), run.root),
        lambda: check_data(run.settings),
        lambda: run.notes.extend(check_memory(run)),
    )
    problems = []
    for check in checks:
        try:
            check()
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n".join(problems))


def published_notes(settings: dict[str, Any]) -> list[str]:
    """Say what a YAML of the published overlay means otherwise here."""
    sums = settings.get("stage") == "dpo" and settings.get("pref_loss", "sigmoid") not in DIVIDED
    if sums and settings.get("dpo_average_log_prob") is None:
        return [
            "log-probs are summed over an answer, as in LlamaFactory; the published overlay takes means without being "
            "asked: dpo_average_log_prob=true"
        ]
    return []


def say(*lines: str) -> None:
    """Print lines that stand out among the training's own."""
    print("\n".join(f"# {line}" for line in lines), flush=True)


if __name__ == "__main__":
    sys.exit(main())
