"""A checkpoint as a sampler: VLMEvalKit's adapter of this repository, which prompts it as it was trained."""

import sys
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

from ..convert.ratings import Unusable
from ..errors import DataError
from ..images import ImageError
from ..score.pictures import Pictures
from ..score.requests import parts
from .asked import Answered, Asked, Drawn, Failed, Ready, Unit


class Checkpoint:
    """A full model or a LoRA adapter, run by transformers or vLLM. Nothing is loaded before the first answer.

    Prompts, images and the end of an answer are those of training, token by token.
    """

    def __init__(self, options: SimpleNamespace, pictures: Pictures):
        """Look at the checkpoint, with the options of `data.py sample`.

        Raises:
            DataError: it cannot be sampled, or there is no VLMEvalKit with the adapter.
        """
        self.options, self.pictures = options, pictures
        ours, self.errors = _adapter()
        vllm = options.backend == "vllm"
        chosen = {
            "max_new_tokens": options.max_tokens,
            "do_sample": options.temperature > 0,
            "temperature": options.temperature or 1.0,
            "top_p": options.top_p,
            "top_k": options.top_k,
            "use_vllm": vllm,
            "system_prompt": options.system or None,
            "device": None if options.device == "auto" else options.device,
            "dtype": None if options.dtype == "auto" else options.dtype,
            "tensor_parallel_size": options.tensor_parallel_size if vllm else None,
        }
        try:
            self.model = ours(options.model, **chosen)
            settings, fingerprint = self.model.settings, self.model.checkpoint.fingerprint()
        except self.errors as error:
            raise DataError(f"--model {options.model}: {error}") from error
        self.together = max(1, options.batch_size // options.count)
        pixels = [pictures.min_pixels, pictures.max_pixels]
        self.identity = {"weights": fingerprint, "settings": settings, "pixels": pixels} | {
            name: getattr(options, name) for name in ("stop", "system", "count")
        }
        self.by = {
            "model": options.model,
            "weights": fingerprint[:16],
            "backend": settings["backend"],
            "dtype": settings["dtype"],
            "markup": settings["markup"],
            **{name: getattr(options, name) for name in ("temperature", "top_p", "top_k", "max_tokens")},
        } | ({"stop": options.stop} if options.stop else {})

    def ready(self, asked: Asked) -> Ready:
        """Write the prompt, and hash it with the content of its images."""
        if len(asked.messages) > 1:
            raise Unusable("a dialogue: a checkpoint is asked one question (an --endpoint takes dialogues)", True)
        files = [self.pictures.source.find_image(image) for image in asked.images]
        for image in asked.images:
            self.pictures.digest(image)  # says what is wrong with it
        images = iter(files)
        message = [
            {"type": "image", "value": str(next(images))}
            if part["type"] == "image"
            else {"type": "text", "value": part["text"]}
            for part in parts(asked.messages[-1][1])
        ]
        try:
            question = self.model.worded(message, system=asked.system)
        except self.errors as error:
            raise Unusable(str(error).splitlines()[0]) from error
        question = question.scaled_first(self.pictures.min_pixels, self.pictures.max_pixels)
        return Ready(asked, question.digest(), question.length, question)

    def sample(self, units: Iterable[Unit]) -> Iterator[Answered]:
        """Answer units in their order."""
        for unit in units:
            whole = {place: self._unreadable(ready.asked) for place, ready in enumerate(unit.questions)}
            asked = [ready.prompt for place, ready in enumerate(unit.questions) if not whole[place]]
            try:
                replies = iter(self.model.sample(asked, self.options.count, unit.seed, self.options.stop))
            except self.errors as error:
                raise DataError(f"--model {self.options.model}: {error}") from error
            answers = [
                Failed(whole[place]) if whole[place] else [_drawn(reply) for reply in next(replies)]
                for place in range(len(unit.questions))
            ]
            yield Answered(unit, answers, self.by | {"seed": unit.seed})

    def _unreadable(self, asked: Asked) -> str:
        """Say what is wrong with a picture that has a head and is not whole, "" if nothing is."""
        try:
            for image in asked.images:
                self.pictures.load(image)
        except ImageError as error:
            return str(error)
        return ""


def _drawn(reply: Any) -> Drawn:
    return Drawn(reply.text, reply.tokens, reply.ended)


def _adapter() -> tuple[type, type[Exception]]:
    """Import the adapter, which takes a while: VLMEvalKit imports all its models."""
    try:
        from vlmeval.uni_dpo.errors import UniDPOError
        from vlmeval.vlm.qwen2_vl.uni_dpo.model import UniDPOVLM
    except ImportError as error:
        raise DataError(
            f"--model: a checkpoint is sampled by VLMEvalKit's adapter of this repository, and {sys.executable} has "
            f"none ({error}). `bash scripts/setup.sh` makes an environment with it, with --vllm one that has vLLM, "
            "too; or serve the model, and name its address with --endpoint."
        ) from error
    if not hasattr(UniDPOVLM, "sample"):
        raise DataError(
            "--model: the adapter in VLMEvalKit is older than this repository: `bash scripts/setup.sh` brings it up "
            "to date, as does `python scripts/install_overlay.py install --for vlmeval`."
        )
    return UniDPOVLM, UniDPOError
