"""The output folder: what is in it, whether a run may go on there, and moving an earlier one out of the way."""

import importlib.util
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from pair_data.errors import DataError
from pair_data.settings import load_yaml

from . import EXAMPLES
from .settings import as_yaml


OPTIONS = EXAMPLES.parent.parent / "src" / "llamafactory" / "train" / "uni_dpo" / "files" / "changeable.py"
WEIGHTS = re.compile(r"(model|adapter_model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)")


@dataclass(frozen=True)
class Plan:
    """What to do with the output folder, and one line that says so."""

    action: Literal["start", "resume", "replace", "nothing"]
    note: str


def sidecar(output: Path, name: str, node_rank: int = 0) -> Path:
    """Return the path of a file beside the output folder: there, a failed start leaves no half-written model folder.

    Machines that share a disk must not write to the same file, so all but the first get their own.
    """
    if not output.name:
        raise DataError(f"output_dir is '{output}', and must be a folder with a name\n  set OUTPUT to another place")
    node = f".node{node_rank}" if node_rank else ""
    return output.with_name(f"{output.name}{node}.{name}")


def plan_output(output: Path, settings: dict[str, Any], resume: bool | None, pairs: int | None = None) -> Plan:
    """Decide between starting, resuming, replacing, and doing nothing.

    `resume` is False to start anew, True to go on with changed settings, None to go on with the same ones. `pairs` are
    those of a step, which no option says.
    """
    checkpoint = last_checkpoint(output)
    has_weights = os.path.isdir(output) and any(WEIGHTS.fullmatch(file.name) for file in output.iterdir())
    if not checkpoint and not has_weights:
        return Plan("start", f"output: {output}")
    if resume is False:
        return Plan("replace", f"output: {output}, starting anew; what is there gets another name")
    choices = "  another place: OUTPUT=...; start anew, keeping what is there under another name: FRESH=1"
    finished = has_weights and has_ended(output, settings)
    if not checkpoint and not finished:
        raise DataError(f"{output} holds a model but no checkpoint to resume from\n{choices}")
    changed = _changed_settings(sidecar(output, "effective.yaml"), settings, pairs)
    if changed and not resume:
        state = "a finished" if finished else "an unfinished"
        listed = "".join(f"    {change}\n" for change in changed)
        going_on = "go on there with the new settings: resume=true"
        raise DataError(f"{output} holds {state} run with other settings:\n{listed}{choices}; {going_on}")
    if finished and not changed:
        return Plan("nothing", f"finished already: {output}\n# train it again: FRESH=1 (the present one is kept)")
    if not checkpoint:
        raise DataError(f"{output} holds a finished run without a checkpoint to go on from\n{choices}")
    return Plan("resume", f"output: {output}, resuming from {checkpoint.name} (start anew: FRESH=1)")


def has_ended(output: Path, settings: dict[str, Any]) -> bool:
    """Tell whether what comes after the model was written, too; our trainer's runs have a record that says so."""
    evaluates = settings.get("do_eval") or settings.get("eval_strategy", "no") != "no"
    written = ["train_results.json", "trainer_state.json", *(["eval_results.json"] if evaluates else [])]
    record, ended = output / "uni_dpo_run.json", True
    if record.is_file():
        try:
            ended = bool(json.loads(record.read_text(encoding="utf-8")).get("ended"))
        except (ValueError, AttributeError):  # damaged: the run is ended once more, which writes it anew
            ended = False
    return ended and all((output / name).is_file() for name in written)


def last_checkpoint(output: Path) -> Path | None:
    """Return the newest complete checkpoint; its trainer_state.json is written last."""
    complete = [path for path in _checkpoints(output) if (path / "trainer_state.json").is_file()]
    return max(complete, key=lambda path: int(path.name.partition("-")[2]), default=None)


def _checkpoints(output: Path) -> list[Path]:
    found = output.glob("checkpoint-*") if os.path.isdir(output) else ()
    return [path for path in found if re.fullmatch(r"checkpoint-[0-9]{1,18}", path.name)]


def effective(settings: dict[str, Any], pairs: int) -> str:
    """Return what effective.yaml keeps of a run: its settings, and the pairs of a step as a comment."""
    return f"# {pairs} pairs a step\n{as_yaml(settings)}"


def _changed_settings(record: Path, settings: dict[str, Any], pairs: int | None) -> list[str]:
    """List the options that matter and differ from the recorded ones, as "name: before -> now"."""
    if not record.is_file():  # started with llamafactory-cli: nothing to compare with
        return []
    options = _options()
    mattering = (
        {name: value for name, value in given.items() if not options.CHANGEABLE.fullmatch(name)}
        for given in (load_yaml(record), settings)
    )
    kept = re.match(r"# (\d+) pairs a step\n", record.read_text(encoding="utf-8"))
    other = [f"pairs a step: {kept[1]} -> {pairs}"] if kept and pairs and int(kept[1]) != pairs else []
    return other + options.changed_options(*mattering)


def _options() -> ModuleType:
    """Load the list of training itself by its path: LlamaFactory, which it belongs to, takes seconds to import."""
    spec = importlib.util.spec_from_file_location("changeable", OPTIONS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_way(output: Path, plan: Plan) -> None:
    """Rename what stands in the way of `plan`: an earlier run, its mark of the end, or a half-saved checkpoint."""
    if plan.action == "replace":
        kept = output.with_name(f"{output.name}.old-{time.strftime('%Y%m%d-%H%M%S')}")
        output.rename(kept)
        if sidecar(output, "effective.yaml").is_file():
            sidecar(output, "effective.yaml").rename(sidecar(kept, "effective.yaml"))
        return
    if (output / "train_results.json").is_file():  # or the run would pass for finished if it is interrupted now
        (output / "train_results.json").replace(output / "earlier-train_results.json")
    for checkpoint in _checkpoints(output):
        if not (checkpoint / "trainer_state.json").is_file():
            checkpoint.rename(output / f"incomplete-{checkpoint.name}")  # or LlamaFactory would resume from it
