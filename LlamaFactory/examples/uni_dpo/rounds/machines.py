"""Several machines that share a disk: the first does the rounds, and the others take part in its trainings.

Each runs the same command with its own NODE_RANK. While the first trains it renews a call in the folder of the rounds;
a call that nobody renews was left by a run that was killed, and is not heard.
"""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pair_data.errors import DataError
from pair_data.writing import whole_file

from .plan import Plan
from .recipe import Recipe
from .stages import Stage, run_command


CALL = ".call.json"
BEAT, LOOK = 2.0, 0.5  # seconds


def are_several(plan: Plan) -> bool:
    """Tell whether NNODES, in the YAML or the environment, says that several machines train."""
    return str(plan.train.get("NNODES") or os.environ.get("NNODES") or 1) != "1"


def node_rank(plan: Plan) -> int:
    """Return which machine this is, 0 for the first or only one (DataError: NODE_RANK is no such number)."""
    if not are_several(plan):
        return 0
    rank = os.environ.get("NODE_RANK", "")
    if not rank.isdecimal():
        raise DataError(f"NODE_RANK is {rank!r}, and must say which machine this is, 0 for the first")
    return int(rank)


@contextmanager
def calling(plan: Plan, number: int, stage: Stage) -> Iterator[None]:
    """Call the other machines to the training of a round, again and again while it runs."""
    if not are_several(plan):
        yield
        return
    over = threading.Event()
    call = {"id": time.time_ns(), "round": number, "settings": _settings(stage)}

    def beat() -> None:
        count = 0
        while True:
            _write(plan.output, call | {"beat": count})
            count += 1
            if over.wait(BEAT):
                return

    caller = threading.Thread(target=beat, daemon=True)
    caller.start()
    try:
        yield
    finally:
        over.set()
        caller.join()
        (plan.output / CALL).unlink(missing_ok=True)


def dismiss(plan: Plan) -> None:
    """Tell the other machines that the rounds have ended."""
    if are_several(plan):
        _write(plan.output, {"id": time.time_ns(), "ended": True})


def follow(plan: Plan, recipe: Recipe) -> None:
    """Take part in trainings until the first machine says that the rounds have ended.

    Raises:
        DataError: the first machine trains with other settings than the YAML of this one says.
    """
    print(f"# waiting for the first machine's calls in {plan.output} (Ctrl-C ends)", flush=True)
    left, heard = _read(plan.output), set()
    while True:
        time.sleep(LOOK)
        call = _read(plan.output)
        if call is None or call == left or call["id"] in heard:
            continue
        if "ended" in call:
            print("# the first machine has ended the rounds")
            return
        heard.add(call["id"])
        stage = recipe.train(call["round"])
        if _settings(stage) != call["settings"]:
            raise DataError(f"round {call['round']}: this machine's YAML says other settings than the first one's")
        print(f"\n== round_{call['round']}, train: with the first machine", flush=True)
        status = run_command(stage, plan.root, plan.output)
        print(f"== round_{call['round']}, train: ended here with exit status {status}", flush=True)


def _settings(stage: Stage) -> list[str]:
    return list(stage.command[2:])  # Python and the launcher may lie elsewhere


def _write(folder: Path, call: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / CALL) as file:
        json.dump(call, file)


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / CALL).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
