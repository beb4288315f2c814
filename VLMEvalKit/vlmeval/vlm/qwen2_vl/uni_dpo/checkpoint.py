"""What lies in a checkpoint folder: which model it is, where its weights and its tokenizer are, what it is made of."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import __version__ as transformers_version

from ....uni_dpo.errors import UniDPOError, in_context
from ....uni_dpo.files import locate, read_json, sha256_of
from .families import FAMILIES, Family, family_of
from .history import ADAPTER, Training, earlier_adapters, training_of
from .portable import readable
from .words import Words


# What an answer depends on. Optimizer states, logs and the model card do not belong to it.
MATTERS = ("*.safetensors", "*.bin", "*.json", "*.jinja", "merges.txt")
DOES_NOT_MATTER = (
    *("training_args.bin", "optimizer.bin", "scheduler.bin", "trainer_state.json"),
    *("all_results.json", "train_results.json", "eval_results.json"),
)
LAYER = re.compile(r"(?:^|\.)(?:layers|layer|blocks)\.(\d+)\.")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this machine.

    Attributes:
        folder: What was asked for: a full model or a LoRA adapter.
        base: The folder of the full model: `folder` itself, or the one an adapter was trained on.
        config: The full model's `config.json`.
        family: What kind of model it is.
        earlier: Adapters to merge into the base before the one in `folder`, in order.
        training: What is known of its training, and so of its prompts; None for what was only downloaded.
    """

    folder: Path
    base: Path
    config: dict
    family: Family
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
    def image_options(self) -> dict[str, Any]:
        """Options of the image processor as training had them."""
        known = self.training.images if self.training else {}
        return {name: known[name] for name in self.family.recorded if name in known}

    def load_processor(self) -> Any:
        """Load tokenizer and image processor as training does: an adapter's own if it carries them.

        Padding is on the side where generation needs it.
        """
        from transformers import AutoProcessor, AutoTokenizer

        whole = any((self.folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json"))
        folder = self.folder if whole and (self.folder / "tokenizer_config.json").is_file() else self.base
        with in_context(f"cannot load the tokenizer and image processor of {folder}"):
            if not self.family.pictures:
                folder = self.folder if (self.folder / "tokenizer_config.json").is_file() else self.base
                tokenizer = AutoTokenizer.from_pretrained(readable(folder), trust_remote_code=False)
                tokenizer.padding_side = "left"
                return Words(tokenizer)
            processor = AutoProcessor.from_pretrained(readable(folder), use_fast=True, trust_remote_code=False)
            processor.tokenizer.padding_side = "left"
            size = processor.image_processor.size
            if self.family.limited and not 0 < size["shortest_edge"] <= size["longest_edge"]:
                raise UniDPOError(f"{folder / 'preprocessor_config.json'} has pixel limits {size}")
        return processor

    def fingerprint(self) -> str:
        """Return a SHA-256 over the names and contents of every file that an answer depends on."""
        digest = hashlib.sha256()
        for folder in dict.fromkeys([self.base, *self.adapters]):
            found = {path for pattern in MATTERS for path in folder.glob(pattern) if path.is_file()}
            for path in sorted(path for path in found if path.name not in DOES_NOT_MATTER):
                digest.update(f"{path.name} {sha256_of(path).hexdigest()}\n".encode())
        return digest.hexdigest()


def open_checkpoint(path: str, base: str | None = None) -> Checkpoint:
    """Look at a checkpoint without loading its weights.

    Args:
        path: A folder (full model, or a LoRA output folder of LlamaFactory), or a name on the model hub.
            Environment variables in it are filled in: "$MODEL".
        base: For an adapter: the full model, if it no longer lies where the adapter says.

    Raises:
        UniDPOError: It is not there, is no model of `FAMILIES`, is an adapter without its base or without those it
            was trained on top of, has its weights in another form than safetensors, or weights that are not those of
            its config.
    """
    folder = base_folder = locate(path)
    adapter = folder / ADAPTER
    if adapter.is_file():
        stated = base or read_json(adapter).get("base_model_name_or_path")
        if not (isinstance(stated, str) and stated.isprintable() and stated):
            raise UniDPOError(f"{adapter} names no base model\n  say it with base_path=FOLDER")
        base_folder = locate(stated, f'the base model of {folder}; if it has moved, add "base_path": "FOLDER"')
    elif base is not None:
        raise UniDPOError(f"base_path is given, but {folder} is no adapter: it has no {ADAPTER}")
    file = base_folder / "config.json"
    config = read_json(file)
    family = _require_family(file, config)
    earlier = earlier_adapters(folder) if folder != base_folder else ()
    for part in dict.fromkeys([base_folder, *earlier, folder]):
        _require_safetensors(part)
    with in_context(f"cannot load the weights of {base_folder}"):
        _require_sizes(file, config)
    return Checkpoint(folder, base_folder, config, family, earlier, training_of(folder, base_folder))


def _require_family(file: Path, config: dict[str, Any]) -> Family:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as BLIND
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as SEEING

    named, kind = config.get("architectures"), config.get("model_type")
    found, family = named[0] if isinstance(named, list) and named else "none", family_of(config)
    if family is None:
        raise UniDPOError(
            f"{file} says model type {kind!r:.40}; this class runs {', '.join(FAMILIES)}\n"
            "  use the class of vlmeval.vlm that belongs to that model"
        )
    if (wanted := SEEING.get(kind) if family.pictures else BLIND.get(kind)) != found:
        raise UniDPOError(
            f"{file} says architecture {found}; with model type {kind}, transformers {transformers_version} has "
            f"{wanted or 'none: install a newer one'}"
        )
    return family


def _require_safetensors(folder: Path) -> None:
    """Refuse pickled weights: who made such a file decides what a program does that loads it carelessly."""
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(path.name for pattern in ("*model*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    what = f"its weights are pickled ({', '.join(pickled[:3])})" if pickled else "it has no weights"
    raise UniDPOError(
        f"{folder} has no *.safetensors: {what}\n"
        "  train with `save_safetensors: true` (the default), or load the model where you trust it and save it again"
    )


def weight_shapes(folder: Path) -> dict[str, list[int]]:
    """Return the shape of every weight of a folder's safetensors, by name, without loading them.

    Raises:
        Exception: Whatever safetensors raises over a file that is not whole.
    """
    shapes = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as weights:
            shapes |= {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
    return shapes


def _require_sizes(file: Path, config: dict[str, Any]) -> None:
    """Refuse a config whose depths, width or vocabulary are not those of the weights beside it.

    From these follow how much is built: one that asks for a billion layers would end with the machine's memory. What
    else is wrong, loading tells.
    """
    shapes = weight_shapes(file.parent)
    counted = {"text": 0, "vis": 0, "audio": 0}  # layers of the language model, and of the towers
    for name in shapes:
        if found := LAYER.search(name):
            tower = re.search("vis|audio", name)
            part = tower[0] if tower else "text"
            counted[part] = max(counted[part], int(found[1]) + 1)
    text, vision, audio = (config.get(f"{part}_config") or {} for part in ("text", "vision", "audio"))
    text = text or config
    embedding = next((shape for name, shape in shapes.items() if name.endswith("embed_tokens.weight")), [None, None])
    depth = "depth" if "depth" in vision else "num_hidden_layers"
    there = {
        "num_hidden_layers": (text.get("num_hidden_layers"), counted["text"]),
        f"vision_config.{depth}": (vision.get(depth), counted["vis"]),
        "audio_config.num_hidden_layers": (audio.get("num_hidden_layers"), counted["audio"]),
        "vocab_size": (text.get("vocab_size"), embedding[0]),
        "hidden_size": (text.get("hidden_size"), embedding[-1]),
    }
    # What a config does not state, as Gemma 3's and LLaVA's do not state all, transformers has a default for.
    wrong = [
        f"{name} is {stated!r:.40} and not {found}"
        for name, (stated, found) in there.items()
        if stated not in (None, found)
    ]
    if wrong:
        raise UniDPOError(f"{file} is not that of the weights beside it: {', '.join(wrong)}")
