"""What is wanted: the YAML of some rounds, checked before anything runs, and compared with what was wanted before."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from launcher.settings import find_model, find_root
from pair_data.cli import app
from pair_data.errors import DataError
from pair_data.settings import load_yaml
from pair_data.writing import whole_file


RECORD = "rounds.json"  # in the output folder: what the rounds there were made with
MAY_CHANGE = ("rounds", "patience")
NEEDED = ("start", "questions", "validation", "output", "recipe", "score")
# Options of the commands that are set here.
SET_HERE = {
    "sample": ("output", "model", "seed", "cache", "report", "endpoint"),
    "score": ("output", "cache", "report", "overwrite", "dataset-dir", "media-dir"),
    "pairs": ("output", "mix", "report", "seed"),
}
SET_IN_TRAINING = ("model_name_or_path", "adapter_name_or_path", "dataset", "dataset_dir", "media_dir", "output_dir")
OURS = (
    "uni_dpo",
    "robust_dpo",
    "odpo",
    "rpo_sq",
    "rpo_bwd_kl",
    "rpo_fwd_kl",
)  # losses of our trainer, which keeps records


@dataclass(frozen=True)
class Plan:
    """Everything a YAML of rounds may say; relative paths start from the root of the repository.

    Attributes:
        root: that root, or the LlamaFactory checkout with the overlay.
        settings: the recipe's options with those of `train` laid over them.
        digests: of every file that results depend on.
    """

    root: Path
    start: str
    questions: tuple[str, ...]
    validation: tuple[str, ...]
    output: Path
    recipe: Path
    score: dict[str, Any]
    rounds: int = 3
    reference: str = "last"
    patience: int = 1
    seed: int = 0
    sample: dict[str, Any] = field(default_factory=dict)
    pairs: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    benchmarks: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    @property
    def lora(self) -> bool:
        """Whether rounds train adapters."""
        return self.settings.get("finetuning_type", "lora") == "lora"

    @property
    def loss(self) -> str:
        """The loss of the recipe."""
        return str(self.settings.get("pref_loss", "sigmoid"))


def read_plan(file: Path) -> Plan:
    """Read and check a YAML of rounds."""
    root, _ = find_root()
    said = load_yaml(file)
    known = [name for name in Plan.__dataclass_fields__ if name not in ("root", "settings", "digests")]
    if odd := [name for name in said if name not in known]:
        raise DataError(f"{file}: there is no {odd[0]} in rounds; there are {', '.join(known)}.")
    if absent := [name for name in NEEDED if not said.get(name)]:
        raise DataError(f"{file}: say {', '.join(absent)}; examples/uni_dpo/rounds.sh --help shows a whole file.")
    for name in ("start", "output", "recipe", "questions", "validation"):
        texts = _listed(said[name]) if name in ("questions", "validation") else [said[name]]
        if not all(isinstance(text, str) and text.strip() and "\0" not in text for text in texts):
            raise DataError(f"{file}: {name} is {said[name]!r:.60}, and must be a path.")
    for name in ("sample", "score", "pairs", "train", "benchmarks"):
        if not isinstance(said.get(name, {}), dict):
            raise DataError(f"{file}: {name} is {said[name]!r}, and must hold options, as name: value.")
    for name, least in (("rounds", 1), ("patience", 1), ("seed", 0)):
        if name in said and (type(said[name]) is not int or said[name] < least):
            raise DataError(f"{file}: {name} is {said[name]!r}, and must be a whole number, {least} or more.")
    if said.get("reference", "last") not in ("start", "last"):
        raise DataError(f"{file}: reference is {said['reference']!r}, and must be start (model) or last (round).")
    for command in SET_HERE:
        _check_options(file, command, said.get(command, {}))
    recipe = root / said["recipe"]
    lists = {name: tuple(map(str, _listed(said[name]))) for name in ("questions", "validation")}
    paths = {"start": find_model(str(said["start"]), root), "output": root / said["output"], "recipe": recipe}
    settings = load_yaml(recipe) | {name: value for name, value in said.get("train", {}).items() if name.islower()}
    plan = Plan(root, **said | lists | paths, settings=settings)
    _check_training(file, plan)
    return Plan(root, **said | lists | paths, settings=settings, digests=_digests(plan))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _check_options(file: Path, command: str, options: dict[str, Any]) -> None:
    """Refuse options that a data command does not have, or that are set here."""
    parameters = typer.main.get_command(app).commands[command].params
    known = {option.removeprefix("--") for it in parameters for option in it.opts if option.startswith("--")}
    known -= set(SET_HERE[command])
    for name in options:
        if str(name).replace("_", "-") not in known:
            raise DataError(
                f"{file}: {command} has no option {name} here; it has {', '.join(sorted(known - {'help'}))}."
            )


def _check_training(file: Path, plan: Plan) -> None:
    if odd := [name for name in plan.train if name in SET_IN_TRAINING]:
        raise DataError(f"{file}: train sets {odd[0]}, which each round sets itself.")
    if plan.lora and (Path(plan.start) / "adapter_config.json").is_file():
        raise DataError(
            f"{file}: start is an adapter, and so will be what {plan.recipe.name} trains. Merge it first, with "
            "llamafactory-cli export."
        )
    recorded = plan.loss in OURS or plan.settings.get("pref_forward")
    if plan.lora and plan.reference == "last" and not recorded and plan.rounds > 1:
        raise DataError(
            f"{file}: reference: last stacks adapters, of which LlamaFactory's own trainer keeps no record. With "
            f"pref_loss: {plan.loss} take pref_forward: auto, reference: start or finetuning_type: full."
        )
    if plan.benchmarks and not (plan.root / "scripts" / "summarize_eval.py").is_file():
        raise DataError(f"{file}: benchmarks need the whole Uni-DPO repository, which has the table of results.")
    if plan.benchmarks and not isinstance(plan.benchmarks.get("config"), str):
        raise DataError(f"{file}: benchmarks: say config, a file as VLMEvalKit/config.json.")


def _digests(plan: Plan) -> dict[str, str]:
    """Return a hash of the content of every file that is named."""
    rule, colon, _ = str(plan.score.get("rule", "")).rpartition(":")
    named = [*plan.questions, *plan.validation, plan.recipe, *([rule] if colon else [])]
    named += [value for name in ("rubric", "cache") if (value := plan.score.get(name))]
    named += [plan.benchmarks["config"]] if plan.benchmarks else []
    found = {str(name): digest_of(plan.root / name) for name in named if (plan.root / name).is_file()}
    if Path(plan.start).is_dir():
        found["start"] = digest_of(Path(plan.start))
    return found


def digest_of(path: Path) -> str:
    """Hash a file, or the files of a checkpoint: weights by their size and time, all else by content."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(it for it in path.iterdir() if it.is_file())
    for file in files:
        if file.suffix in (".safetensors", ".bin") and file is not path:
            digest.update(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}".encode())
        elif file is path or file.suffix in (".json", ".jinja", ".txt"):
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def require_same(plan: Plan) -> None:
    """Refuse to go on in a folder whose rounds were made with other settings, naming each; write down new ones."""
    names = [name for name in Plan.__dataclass_fields__ if name not in ("root", "output", *MAY_CHANGE)]
    now = json.loads(json.dumps({name: getattr(plan, name) for name in names}, default=str))
    record = plan.output / RECORD
    if record.is_file():
        try:
            before = json.loads(record.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{record} is damaged ({error}). Start anew with --fresh.") from error
        changes = list(_changes(before, now))
        if changes:
            raise DataError(
                f"{plan.output} holds rounds with other settings:\n"
                + "".join(f"    {line}\n" for line in changes)
                + "  another place: output: ...; start anew, keeping what is there under another name: --fresh"
            )
        return
    with whole_file(record) as file:
        json.dump(now, file, indent=1)


def _changes(before: dict[str, Any], now: dict[str, Any], path: str = "") -> list[str]:
    lines = []
    for name in sorted(before.keys() | now.keys()):
        old, new, where = before.get(name), now.get(name), f"{path}{name}"
        if isinstance(old, dict) and isinstance(new, dict):
            lines += _changes(old, new, f"{where}.")
        elif old != new:
            content = path == "digests."
            lines.append(f"{name}: its content has changed" if content else f"{where}: {old} -> {new}")
    return lines
