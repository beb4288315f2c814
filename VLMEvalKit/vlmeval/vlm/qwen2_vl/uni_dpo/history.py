"""What a checkpoint's folder tells of its training: how it was prompted, and which adapters came before it.

Our training writes a record into files that travel with the weights: the key `uni_dpo` of `config.json` (full models)
or of `tokenizer_config.json` (adapters). LlamaFactory leaves other traces: an export's `Modelfile` has the prompt,
and the rest only tell that there was a training.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import CheckpointError, locate, read_json


RECORD = "uni_dpo"
RECORD_FILES = ("config.json", "tokenizer_config.json")
ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MODELFILE = "Modelfile"
MODEL_CARD = "README.md"
WEB_OPTIONS = "training_args.yaml"

# Left by transformers' trainer or by LlamaFactory in whatever they save, and in nothing that was only downloaded.
TRACES_OF_TRAINING = (
    *("training_args.bin", "trainer_state.json", ADAPTER, MODELFILE, WEB_OPTIONS),
    *("trainer_log.jsonl", "train_results.json", "all_results.json"),
)

# Stands for the question, its pictures included, in a prompt.
QUESTION = "{question}"


@dataclass(frozen=True)
class EarlierAdapter:
    """An adapter that was merged into the base before the training of the one in hand.

    Attributes:
        path: Its folder, or its name on the hub, as training had it.
        digest: SHA-256 of its weights; None if training did not have them in a folder.
    """

    path: str
    digest: str | None


@dataclass(frozen=True)
class TrainingRecord:
    """What our training wrote about itself.

    Attributes:
        template: LlamaFactory's `template`; None if it was not set.
        prompt: The prompt with `QUESTION` in it, with the system prompt of training; None if no text says it.
        pref_loss: The loss.
        adapters: What was merged into the base before, in order.
    """

    template: str | None
    prompt: str | None
    pref_loss: str
    adapters: tuple[EarlierAdapter, ...] = ()


def training_record(folder: Path) -> TrainingRecord | None:
    """Return what our training wrote into a checkpoint's folder, full model or adapter; None if it wrote nothing.

    Raises:
        CheckpointError: A file that would have it cannot be read, or the record is not as training writes it.
    """
    for path in (folder / name for name in RECORD_FILES):
        if path.is_file() and (content := read_json(path).get(RECORD)) is not None:
            return _parsed(content, path)
    return None


def _parsed(content: Any, path: Path) -> TrainingRecord:
    try:
        return TrainingRecord(
            template=_text(content["template"]) if content["template"] is not None else None,
            prompt=_text(content["prompt"], QUESTION) if content["prompt"] is not None else None,
            pref_loss=_text(content["pref_loss"]),
            adapters=tuple(
                EarlierAdapter(_text(it["path"]), it["digest"] and _text(it["digest"]))
                for it in content.get("adapters", [])
            ),
        )
    except (TypeError, LookupError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f'"{RECORD}" in {path} is not as training writes it: {error!r:.100}\n  is every file as it was saved?'
        ) from error


def _text(value: Any, part: str = "") -> str:
    if not isinstance(value, str) or part not in value:
        raise ValueError(f"{value!r:.60}")
    return value


@dataclass(frozen=True)
class Training:
    """What is known of how a checkpoint was prompted in its training.

    Attributes:
        trace: The file that tells.
        prompt: The prompt with `QUESTION` in it; None if the trace does not say.
        recorded: Whether our training wrote it, so that there is no doubt.
    """

    trace: Path
    prompt: str | None = None
    recorded: bool = False


def training_of(folder: Path, base: Path) -> Training | None:
    """Look for the best evidence of a training.

    Args:
        folder: A full model or an adapter.
        base: The adapter's base; `folder` itself for a full model.

    Returns:
        None if the folder looks like something that was only downloaded.

    Raises:
        CheckpointError: A file is not as training writes it.
    """
    for place in dict.fromkeys([folder, base]):
        record = training_record(place)
        if record and record.prompt:
            return Training(place, record.prompt, recorded=True)
        if (place / MODELFILE).is_file() and (prompt := prompt_of_modelfile(place / MODELFILE)):
            return Training(place / MODELFILE, prompt)
    traces = [folder / trace for trace in TRACES_OF_TRAINING if (folder / trace).is_file()]
    if _is_card_of_llamafactory(folder / MODEL_CARD):
        traces.append(folder / MODEL_CARD)
    return Training(traces[0]) if traces else None


def prompt_of_modelfile(path: Path) -> str | None:
    """Read the prompt out of the `Modelfile` that LlamaFactory's export leaves.

    Its template is Go's: `{{ if .System }}...{{ .System }}...{{ end }}`, then the turns of the user.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    system_turn = re.search(r"\{\{ if \.System \}\}(.*?)\{\{ \.System \}\}(.*?)\{\{ end \}\}", text, re.DOTALL)
    user_turn = re.search(r'\{\{ if eq \.Role "user" \}\}(.*?)\{\{ \.Content \}\}(.*?)\{\{ else if', text, re.DOTALL)
    prefix = re.search(r'^TEMPLATE """(.*?)\{\{ if \.System \}\}', text, re.DOTALL | re.MULTILINE)
    system = re.search(r'^SYSTEM """(.*?)"""', text, re.DOTALL | re.MULTILINE)
    if not (user_turn and (user_turn[1] or user_turn[2])):
        return None  # without a `template`, LlamaFactory makes one up from the base's
    before = prefix[1] if prefix else ""
    if system and system_turn:
        before += system_turn[1] + system[1] + system_turn[2]
    return before + user_turn[1] + QUESTION + user_turn[2]


def _is_card_of_llamafactory(path: Path) -> bool:
    """Tell the model card that LlamaFactory writes, by its tag."""
    return path.is_file() and bool(re.search(r"^- llama-factory$", path.read_text("utf-8", "replace"), re.MULTILINE))


def earlier_adapters(folder: Path) -> tuple[Path, ...]:
    """Find the adapters that were merged into the base before the one in a folder was trained, in order.

    Each is looked for where training had it, and beside the folder.

    Raises:
        CheckpointError: One is not to be found, or is not the one of training; or there were some that nothing of ours
            has recorded.
    """
    record = training_record(folder)
    if record is None:
        _refuse_unrecorded(folder)
    return tuple(_find(adapter, folder) for adapter in record.adapters) if record else ()


def _refuse_unrecorded(folder: Path) -> None:
    """Look into the options that LlamaFactory's web UI leaves, if the adapter comes from there."""
    path = folder / WEB_OPTIONS
    options = path.read_text("utf-8", "replace") if path.is_file() else ""
    earlier = re.search(r"^adapter_name_or_path: (.+)$", options, re.MULTILINE)
    if earlier and re.search(r"^create_new_adapter: true$", options, re.MULTILINE):
        raise CheckpointError(
            f"{folder} was trained on top of the adapter {earlier[1]}, as {path} says, without a record of ours\n"
            f"  merge them with `llamafactory-cli export` and adapter_name_or_path: {earlier[1]},{folder}"
        )


def _find(adapter: EarlierAdapter, folder: Path) -> Path:
    name = Path(adapter.path).name
    wish = f"{folder} was trained on top of the adapter {adapter.path}"
    beside = folder.parent / name
    if beside.is_dir() and not Path(adapter.path).is_dir():
        found = beside
    else:
        try:
            found = locate(adapter.path)
        except CheckpointError as error:
            raise CheckpointError(
                f"{wish}, which is not there; without it the answers would be another model's\n"
                f"  put it there or into {folder.parent} as {name}, or merge both with `llamafactory-cli export` and "
                f"adapter_name_or_path: {adapter.path},{folder}"
            ) from error
    weights = found / ADAPTER_WEIGHTS
    if not weights.is_file():
        raise CheckpointError(f"{wish}, and {found} has no {ADAPTER_WEIGHTS}")
    if adapter.digest not in (None, digest_of(weights)):
        raise CheckpointError(f"{wish}, whose weights have changed since: those in {found} are others")
    return found


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
