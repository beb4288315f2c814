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
DTYPES = ("auto", "float32", "bfloat16", "float16")
CONTENT = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")  # suffixes of what a model consists of


class Checkpoint:
    """A model in the format of transformers, not yet loaded.

    Attributes:
        folder: where it is.
        config: its configuration.
    """

    def __init__(self, model: str):
        """Find a model.

        Args:
            model: a folder, or a name on the model hub.

        Raises:
            DataError: there is no such model, it is a LoRA adapter, transformers does not know its type, or its
                config would have a part of it dropped.
        """
        from safetensors import SafetensorError
        from transformers import AutoConfig

        self.folder = _find(model)
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
        tied = any(getattr(it, "tie_word_embeddings", False) for it in (self.config, self.config.get_text_config()))
        with suppress(SafetensorError):  # of a file that is not whole, loading tells
            tied = tied and portable().has_own_head(self.folder)
        if tied:
            raise DataError(
                f"{model} has an output layer (lm_head) of its own, but its config.json says `tie_word_embeddings: "
                "true`, by which it would be dropped: so are exports of LoRA that trains it. Write `false` there, at "
                "the top and in `text_config`."
            )

    @cached_property
    def readable(self) -> str:
        """The folder, as the transformers in use loads it right, whichever version saved it."""
        return portable().readable(self.folder)

    @cached_property
    def is_vision_language(self) -> bool:
        """Whether transformers has a class for it that reads images and writes text."""
        from transformers import AutoModelForImageTextToText

        return type(self.config) in AutoModelForImageTextToText._model_mapping.keys()

    @cached_property
    def processor(self) -> Any:
        """The processor of a vision-language model, the tokenizer of another.

        Raises:
            DataError: it has none, or none with a chat template.
        """
        from transformers import AutoProcessor, AutoTokenizer

        kind = AutoProcessor if self.is_vision_language else AutoTokenizer
        try:
            processor = kind.from_pretrained(
                self.readable, use_fast=True, trust_remote_code=False
            )  # as training has it
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{self.folder} has no tokenizer that transformers can load: {error}") from error
        if not (processor.chat_template or getattr(self._tokenizer_of(processor), "chat_template", None)):
            raise DataError(f"{self.folder} has no chat template, so how it wants a dialogue laid out is not known.")
        tokenizer = self._tokenizer_of(processor)
        tokenizer.padding_side = "right"  # then positions are as without padding, whatever kind the model counts them
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        self._require_roles(processor)
        return processor

    def _require_roles(self, processor: Any) -> None:
        """Refuse a chat template that leaves out what has a role, as that of the base Qwen2-VL-2B does."""
        message = {"role": "user", "content": self._content("question")}
        template = processor.chat_template or self._tokenizer_of(processor).chat_template
        try:
            written = self._tokenizer_of(processor).apply_chat_template(
                [message], chat_template=template, tokenize=False
            )
        except Exception:  # whatever it wants, the dialogues themselves will tell
            return
        if "question" not in written:
            raise DataError(
                f"The chat template of {self.folder} writes nothing of a question, so that every pair would get the "
                "same score. Use an instruct model; if this one was trained, export it again with this overlay, which "
                "saves the chat template of its training."
            )

    @property
    def tokenizer(self) -> Any:
        """The tokenizer."""
        return self._tokenizer_of(self.processor)

    def _tokenizer_of(self, processor: Any) -> Any:
        return getattr(processor, "tokenizer", processor)

    @property
    def longest(self) -> int | None:
        """The most tokens that the model takes, if its configuration says so."""
        return getattr(self.config.get_text_config(), "max_position_embeddings", None)

    def lay_out(self, messages: Iterable[tuple[str, str]], system: str = "", ask: bool = False) -> str:
        """Write a dialogue the way the model's chat template does.

        Args:
            messages: (role, text); `<image>` stands for an image.
            system: the system prompt, empty for the template's own.
            ask: whether the model is to go on with an answer.

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
        """A hash of everything in the folder that a score may depend on.

        Raises:
            DataError: there are no weights.
        """
        files = sorted(path for path in self.folder.iterdir() if path.suffix in CONTENT and path.is_file())
        if not any(path.suffix in (".safetensors", ".bin") for path in files):
            raise DataError(f"{self.folder} has no weights (.safetensors or .bin).")
        with ThreadPoolExecutor(4) as pool:
            digests = list(pool.map(_digest, files))
        content = [(path.name, digest) for path, digest in zip(files, digests, strict=True)]
        return hashlib.blake2b(repr(content).encode(), digest_size=16).hexdigest()


def _earlier_adapters(folder: Path) -> list[str]:
    """Name the adapters that an adapter was trained on top of, as our training records them."""
    try:
        record = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["uni_dpo"]
        return [str(adapter["path"]) for adapter in record["adapters"]]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def _find(model: str) -> Path:
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model))
    except (HFValidationError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise DataError(f"--model {model}: no such folder, and not to be had from the model hub ({error})") from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def choose_device(device: str) -> str:
    """Return the device that "auto" stands for: a GPU if there is one.

    Raises:
        DataError: there is no such device.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter from a torch that was built without CUDA
        raise DataError(f"--device {device}: {str(error).splitlines()[0]}") from error
    return device


def choose_dtype(dtype: str, device: str, config: Any) -> str:
    """Return the precision that "auto" stands for: on a GPU that of the weights, on a CPU float32.

    Raises:
        DataError: it is none of `DTYPES`.
    """
    if dtype not in DTYPES:
        raise DataError(f"--dtype {dtype}: choose one of {', '.join(DTYPES)}.")
    if dtype != "auto":
        return dtype
    own = str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")
    return own if device.startswith("cuda") and own in DTYPES else "float32"


@cache
def portable() -> Any:
    """Load a module of training's by its path: vLLM's environment has no LlamaFactory."""
    spec = importlib.util.spec_from_file_location("uni_dpo_portable", PORTABLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
