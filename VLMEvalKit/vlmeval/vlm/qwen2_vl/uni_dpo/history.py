"""What a checkpoint's folder tells of its training: how it was prompted, and which adapters came before it.

Our training writes a record into files that travel with the weights: the key `uni_dpo` of `config.json` (full models)
or of `tokenizer_config.json` (adapters). LlamaFactory leaves other traces: an export's `Modelfile` has the prompt,
and the rest only tell that there was a training.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ....uni_dpo.errors import UniDPOError
from ....uni_dpo.files import locate, read_json, sha256_of


RECORD = "uni_dpo"
ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MODELFILE = "Modelfile"
WEB_OPTIONS = "training_args.yaml"

# Left by transformers' trainer or by LlamaFactory in whatever they save, and in nothing that was only downloaded.
TRACES_OF_TRAINING = (
    *("training_args.bin", "trainer_state.json", ADAPTER, MODELFILE, WEB_OPTIONS),
    *("trainer_log.jsonl", "train_results.json", "all_results.json"),
)

# Stands for the question, its pictures included, in a prompt.
QUESTION = "{question}"


def training_record(folder: Path) -> dict[str, Any] | None:
    """Return what our training wrote about itself into a checkpoint's folder; None if it wrote nothing.

    Returns:
        "template": LlamaFactory's option, or None; "prompt": the prompt with `QUESTION` in it and with the system
        prompt of training, or None if no text says it; "pref_loss"; "images": options of the image processor;
        "adapters": what was merged into the base before, in order, each with its "path" as training had it, and the
        SHA-256 of its weights as "digest", or None.

    Raises:
        UniDPOError: A file that would have it cannot be read, or the record is not as training writes it.
    """
    for path in (folder / "config.json", folder / "tokenizer_config.json"):
        if path.is_file() and (record := read_json(path).get(RECORD)) is not None:
            if not _is_record(record):
                raise UniDPOError(
                    f'"{RECORD}" in {path} is not as training writes it: {record!r:.100}\n'
                    "  is every file as it was saved?"
                )
            return {"adapters": [], "images": {}} | record
    return None


def _is_record(record: Any) -> bool:
    def has(it: Any, **kinds: Any) -> bool:
        return isinstance(it, dict) and all(isinstance(it.get(name, ...), kind) for name, kind in kinds.items())

    if not has(record, template=str | None, prompt=str | None, pref_loss=str):
        return False
    adapters = record.get("adapters", [])
    question_has_a_place = record["prompt"] is None or QUESTION in record["prompt"]
    return (
        question_has_a_place
        and has(record.get("images", {}))
        and isinstance(adapters, list)
        and all(has(adapter, path=str, digest=str | None) for adapter in adapters)
    )


@dataclass(frozen=True)
class Training:
    """What is known of how a checkpoint was prompted in its training.

    Attributes:
        trace: The file or folder that tells.
        prompt: The prompt with `QUESTION` in it; None if the trace does not say.
        recorded: Whether our training wrote it, so that there is no doubt.
        images: Options of the image processor in training, as far as they are recorded.
    """

    trace: Path
    prompt: str | None = None
    recorded: bool = False
    images: Mapping[str, Any] = field(default_factory=dict)


def training_of(folder: Path, base: Path) -> Training | None:
    """Look for the best evidence of a training in a folder, and in the base of an adapter.

    Returns:
        None if the folder looks like something that was only downloaded.

    Raises:
        UniDPOError: A file is not as training writes it.
    """
    for place in dict.fromkeys([folder, base]):
        record = training_record(place)
        if record and record["prompt"]:
            return Training(place, record["prompt"], True, record["images"])
        if (place / MODELFILE).is_file() and (prompt := _prompt_of_modelfile(place / MODELFILE)):
            return Training(place / MODELFILE, prompt)
    traces = [folder / trace for trace in TRACES_OF_TRAINING if (folder / trace).is_file()]
    if re.search(r"^- llama-factory$", _text_of(folder / "README.md"), re.MULTILINE):
        traces.append(folder / "README.md")  # LlamaFactory's model card, by its tag
    return Training(traces[0]) if traces else None


def _text_of(path: Path) -> str:
    return path.read_text("utf-8", "replace") if path.is_file() else ""


def _prompt_of_modelfile(path: Path) -> str | None:
    """Read the prompt out of the `Modelfile` that LlamaFactory's export leaves.

    Its template is Go's: `{{ if .System }}...{{ .System }}...{{ end }}`, then the turns of the user.
    """
    text = _text_of(path)
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


def earlier_adapters(folder: Path) -> tuple[Path, ...]:
    """Find the adapters that were merged into the base before the one in a folder was trained, in order.

    Each is looked for where training had it, and beside the folder.

    Raises:
        UniDPOError: One is not to be found, or is not the one of training; or there were some that nothing of ours
            has recorded.
    """
    if record := training_record(folder):
        return tuple(_find(adapter["path"], adapter["digest"], folder) for adapter in record["adapters"])
    options = _text_of(folder / WEB_OPTIONS)  # left by LlamaFactory's web UI
    earlier = re.search(r"^adapter_name_or_path: (.+)$", options, re.MULTILINE)
    if earlier and re.search(r"^create_new_adapter: true$", options, re.MULTILINE):
        raise UniDPOError(
            f"{folder} was trained on top of the adapter {earlier[1]}, as {folder / WEB_OPTIONS} says, without a "
            "record of ours\n"
            f"  merge them with `llamafactory-cli export` and adapter_name_or_path: {earlier[1]},{folder}"
        )
    return ()


def _find(path: str, digest: str | None, folder: Path) -> Path:
    wish = f"{folder} was trained on top of the adapter {path}"
    found = folder.parent / Path(path).name
    if Path(path).is_dir() or not found.is_dir():
        try:
            found = locate(path)
        except UniDPOError as error:
            raise UniDPOError(
                f"{wish}, which is not there; without it the answers would be another model's\n"
                f"  put it there or into {folder.parent} as {found.name}, or merge both with `llamafactory-cli export`"
                f" and adapter_name_or_path: {path},{folder}"
            ) from error
    weights = found / ADAPTER_WEIGHTS
    if not weights.is_file():
        raise UniDPOError(f"{wish}, and {found} has no {ADAPTER_WEIGHTS}")
    if digest and digest != sha256_of(weights).hexdigest():
        raise UniDPOError(f"{wish}, whose weights have changed since: those in {found} are others")
    return found
