"""A model's folder: what is in it, how its texts are laid out, and what it is called in the cache."""

import hashlib
import importlib.util
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from ..errors import DataError
from .requests import PLACEHOLDER, parts


PORTABLE = (
    Path(__file__).resolve().parents[4] / "src" / "llamafactory" / "train" / "uni_dpo" / "models" / "portable.py"
)
WEIGHT_NAMES = PORTABLE.with_name("weight_names.py")
CONTENT = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")  # suffixes of what a model consists of


class Checkpoint:
    """A model in the format of transformers, not yet loaded.

    Attributes:
        folder: where it is.
        config: its configuration.
        is_vision_language: whether transformers has a class for it that reads images and writes text.
        longest: the most tokens that the model takes, None if its configuration does not say so.
    """

    def __init__(self, model: str):
        """Find a model: a folder, or a name on the model hub.

        Raises:
            DataError: there is no such model, it is a LoRA adapter, transformers does not know its type, or its
                config would have a part of it dropped.
        """
        from safetensors import SafetensorError
        from transformers import AutoConfig, AutoModelForImageTextToText

        self.folder = Path(model) if Path(model).is_dir() else _from_hub(model)
        if (self.folder / "adapter_config.json").is_file():
            chain = ",".join([*_earlier_adapters(self.folder), model])
            raise DataError(
                f"{model} is a LoRA adapter. Merge it first, with `llamafactory-cli export` and "
                f"`adapter_name_or_path: {chain}` (and stage: rm for a reward model, so that its value head comes "
                "along)."
            )
        try:
            self.config = AutoConfig.from_pretrained(self.readable, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"transformers cannot use the model {model}: {str(error).strip()[:200]}") from error
        text = self.config.get_text_config()
        self.is_vision_language = type(self.config) in AutoModelForImageTextToText._model_mapping.keys()
        self.longest = getattr(text, "max_position_embeddings", None)
        tied = any(getattr(it, "tie_word_embeddings", False) for it in (self.config, text))
        with suppress(SafetensorError):  # loading says so of a file that is not whole
            if tied and portable().has_own_head(self.folder):
                raise DataError(
                    f"{model} has an output layer (lm_head) of its own, but its config.json says "
                    "`tie_word_embeddings: true`, by which it would be dropped: so are exports of LoRA that trains "
                    "it. Write `false` there, at the top and in `text_config`."
                )

    @cached_property
    def readable(self) -> str:
        """The folder, as the transformers in use loads it right, whichever version saved it."""
        return portable().readable(self.folder)

    @cached_property
    def processor(self) -> Any:
        """The processor of a vision-language model, the tokenizer of another, as training has it.

        It is refused without a chat template, and with one that writes nothing of what has a role.
        """
        from transformers import AutoProcessor, AutoTokenizer

        kind = AutoProcessor if self.is_vision_language else AutoTokenizer
        try:
            processor = kind.from_pretrained(self.readable, use_fast=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{self.folder} has no tokenizer that transformers can load: {error}") from error
        tokenizer = getattr(processor, "tokenizer", processor)
        template = processor.chat_template or tokenizer.chat_template
        if not template:
            raise DataError(f"{self.folder} has no chat template, so how it wants a dialogue laid out is not known.")
        tokenizer.padding_side = "right"  # then positions are as without padding, whatever kind the model counts them
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        with suppress(Exception):  # whatever the template wants, the dialogues themselves will tell
            question = [{"role": "user", "content": self._content("question")}]
            written = tokenizer.apply_chat_template(question, chat_template=template, tokenize=False)
            processor = processor if "question" in written else None
        if processor is None:  # so it is with the base Qwen2-VL-2B
            raise DataError(
                f"The chat template of {self.folder} writes nothing of a question, so that every pair would get the "
                "same score. Use an instruct model; if this one was trained, export it again with this overlay, which "
                "saves the chat template of its training."
            )
        return processor

    @property
    def tokenizer(self) -> Any:
        """The tokenizer."""
        return getattr(self.processor, "tokenizer", self.processor)

    def lay_out(self, messages: Iterable[tuple[str, str]], system: str = "", ask: bool = False) -> str:
        """Write a dialogue, with `<image>` for an image, the way the model's chat template does.

        Args:
            messages: (role, text).
            system: the system prompt, empty for the template's own.
            ask: whether an answer of the model is to follow.

        Raises:
            ValueError: the template refuses it.
        """
        from jinja2 import TemplateError

        turns = [("system", system)] if system else []
        whole = [{"role": role, "content": self._content(text)} for role, text in [*turns, *messages]]
        holder = self.processor if self.processor.chat_template else self.tokenizer
        try:
            return holder.apply_chat_template(whole, tokenize=False, add_generation_prompt=ask)
        except TemplateError as error:
            raise ValueError(f"the model's chat template refuses this dialogue: {error}") from error

    def _content(self, text: str) -> Any:
        return parts(text) if self.is_vision_language else text.replace(PLACEHOLDER, "")

    @cached_property
    def fingerprint(self) -> str:
        """A hash of everything in the folder that a score may depend on."""
        files = sorted(path for path in self.folder.iterdir() if path.suffix in CONTENT and path.is_file())
        if not any(path.suffix in (".safetensors", ".bin") for path in files):
            raise DataError(f"{self.folder} has no weights (.safetensors or .bin).")
        with ThreadPoolExecutor(4) as pool:
            content = list(zip([path.name for path in files], pool.map(_digest, files), strict=True))
        return hashlib.blake2b(repr(content).encode(), digest_size=16).hexdigest()


def choose_device(device: str) -> str:
    """Return the device that "auto" stands for, a GPU if there is one; refuse a device that is not there."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter from a torch that was built without CUDA
        raise DataError(f"--device {device}: {str(error).splitlines()[0]}") from error
    return device


def portable() -> Any:
    """Return training's module that reads checkpoints of other versions of transformers."""
    return of_training(PORTABLE)


def misnamed(folder: Path) -> bool:
    """Tell whether a model's weights have names that only transformers 5 reads."""
    return of_training(WEIGHT_NAMES).misnamed(folder)


def weight_names(folder: Path) -> set[str]:
    """Return the names of a model's weights, as far as they are safetensors."""
    return of_training(WEIGHT_NAMES).names(folder)


@cache
def of_training(file: Path) -> Any:
    """Load a module of training's by its path: vLLM's environment has no LlamaFactory."""
    spec = importlib.util.spec_from_file_location(f"uni_dpo_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _from_hub(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model))
    except (HFValidationError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise DataError(f"--model {model}: no such folder, and not to be had from the model hub ({error})") from error


def _earlier_adapters(folder: Path) -> list[str]:
    """Name the adapters that an adapter was trained on top of, as our training records them."""
    try:
        record = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["uni_dpo"]
        return [str(adapter["path"]) for adapter in record["adapters"]]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()
