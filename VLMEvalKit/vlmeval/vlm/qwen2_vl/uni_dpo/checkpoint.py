"""What lies in a checkpoint folder: which model it is, where its weights and its tokenizer are, what it is made of."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import CheckpointError, in_context, locate, read_json
from .history import ADAPTER, Training, earlier_adapters, training_of, training_record
from .portable import readable
from .weights import misfit, weight_shapes


__all__ = ["Checkpoint", "CheckpointError", "in_context", "open_checkpoint", "training_record"]

ARCHITECTURES = ("Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration")

# What an answer depends on. Optimizer states, logs and the model card do not belong to it.
MATTERS = ("*.safetensors", "*.bin", "*.json", "*.jinja", "merges.txt")
DOES_NOT_MATTER = (
    "training_args.bin",
    "optimizer.bin",
    "scheduler.bin",
    "trainer_state.json",
    "all_results.json",
    "train_results.json",
    "eval_results.json",
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this machine.

    Attributes:
        folder: What was asked for: a full model or a LoRA adapter.
        base: The folder of the full model: `folder` itself, or the one an adapter was trained on.
        config: The full model's `config.json`.
        earlier: Adapters to merge into the base before the one in `folder`, in order.
        training: What is known of its training, and so of its prompts; None for what was only downloaded.
    """

    folder: Path
    base: Path
    config: dict
    earlier: Sequence[Path] = ()
    training: Training | None = None

    @property
    def is_adapter(self) -> bool:
        """Whether this is an adapter on a base instead of a full model."""
        return self.folder != self.base

    @property
    def adapters(self) -> list[Path]:
        """The adapters to merge into the base, in order."""
        return [*self.earlier, self.folder] if self.is_adapter else []

    @property
    def processor(self) -> Path:
        """The folder to load tokenizer and image processor from: an adapter's own if it carries them."""
        whole = any((self.folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json"))
        return self.folder if whole and (self.folder / "tokenizer_config.json").is_file() else self.base

    def load_processor(self) -> Any:
        """Load tokenizer and image processor as training does, with padding on the side where generation needs it."""
        from transformers import AutoProcessor

        with in_context(f"load the tokenizer and image processor of {self.processor}"):
            processor = AutoProcessor.from_pretrained(readable(self.processor), use_fast=True, trust_remote_code=False)
            processor.tokenizer.padding_side = "left"
            size = processor.image_processor.size
            if not 0 < size["shortest_edge"] <= size["longest_edge"]:
                raise CheckpointError(f"{self.processor / 'preprocessor_config.json'} has pixel limits {size}")
        return processor

    def fingerprint(self) -> str:
        """Return a SHA-256 over the names and contents of every file that an answer depends on."""
        digest = hashlib.sha256()
        for folder in dict.fromkeys([self.base, *self.adapters]):
            for path in _files_that_matter(folder):
                with path.open("rb") as file:
                    digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        return digest.hexdigest()


def open_checkpoint(path: str, base: str | None = None) -> Checkpoint:
    """Look at a checkpoint without loading its weights.

    Args:
        path: A folder (full model, or a LoRA output folder of LlamaFactory), or a name on the model hub.
            Environment variables in it are filled in: "$MODEL".
        base: For an adapter: the full model, if it no longer lies where the adapter says.

    Raises:
        CheckpointError: It is not there, is not a Qwen2-VL or Qwen2.5-VL, is an adapter without its base or without
            those it was trained on top of, has its weights in another form than safetensors, or weights that are not
            those of its config.
    """
    folder = locate(path)
    adapter = folder / ADAPTER
    if adapter.is_file():
        stated = base or read_json(adapter).get("base_model_name_or_path")
        if not (isinstance(stated, str) and stated.isprintable() and stated):
            raise CheckpointError(f"{adapter} names no base model\n  say it with base_path=FOLDER")
        base_folder = locate(stated, f'the base model of {folder}; if it has moved, add "base_path": "FOLDER"')
    elif base is not None:
        raise CheckpointError(f"base_path is given, but {folder} is no adapter: it has no {ADAPTER}")
    else:
        base_folder = folder
    config = read_json(base_folder / "config.json")
    named = config.get("architectures")
    found = named[0] if isinstance(named, list) and named else "none"
    if found not in ARCHITECTURES:
        raise CheckpointError(
            f"{base_folder / 'config.json'} says architecture {found}; this class runs {' and '.join(ARCHITECTURES)}\n"
            "  use the class of vlmeval.vlm that belongs to that model"
        )
    earlier = earlier_adapters(folder) if folder != base_folder else ()
    for part in dict.fromkeys([base_folder, *earlier, folder]):
        _require_safetensors(part)
    with in_context(f"load the weights of {base_folder}"):
        if wrong := misfit(config, weight_shapes(base_folder)):
            raise CheckpointError(f"{base_folder / 'config.json'} is not that of the weights beside it: {wrong}")
    return Checkpoint(folder, base_folder, config, earlier, training_of(folder, base_folder))


def _require_safetensors(folder: Path) -> None:
    """Refuse pickled weights: who made such a file decides what a program does that loads it carelessly."""
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(path.name for pattern in ("*model*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    what = f"its weights are pickled ({', '.join(pickled[:3])})" if pickled else "it has no weights"
    raise CheckpointError(
        f"{folder} has no *.safetensors: {what}\n"
        "  train with `save_safetensors: true` (the default), or load the model where you trust it and save it again"
    )


def _files_that_matter(folder: Path) -> list[Path]:
    """List what `fingerprint` looks at."""
    found = {path for pattern in MATTERS for path in folder.glob(pattern) if path.is_file()}
    return sorted(path for path in found if path.name not in DOES_NOT_MATTER)
