"""Models that transformers runs: loading, batches, and what to do when one fails.

Batches are padded on the right and read at each request's last token. For models that look back only, that is what
the request alone would give, also where positions are learned or states are carried on.
"""

import itertools
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import torch

from ..errors import DataError
from ..images import ImageError
from .checkpoints import Checkpoint, choose_device, choose_dtype
from .pictures import Pictures
from .requests import Request, Scored, Unscored


BATCHES_SORTED = 32  # batches in memory to sort requests by length in


class TransformersScorer:
    """What the kinds of scorers have in common; they add the text and what they read of the model's output.

    Attributes:
        identity: what scores depend on.
        reads_images: whether the model takes images.
    """

    kind: str
    asks = False  # whether the model is to go on where the text ends

    def __init__(self, checkpoint: Checkpoint, pictures: Pictures, device: str, dtype: str, batch_size: int):
        """Prepare; the model is loaded when there is something to score.

        Args:
            checkpoint: the model.
            pictures: how images are read.
            device: "auto", or as torch names devices.
            dtype: one of `checkpoints.DTYPES`.
            batch_size: requests at a time.

        Raises:
            DataError: the folder holds no such model.
        """
        self.checkpoint, self.pictures, self.batch_size = checkpoint, pictures, batch_size
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, self.device, checkpoint.config)
        self.reads_images = checkpoint.is_vision_language
        self.identity = {
            "kind": self.kind,
            "weights": checkpoint.fingerprint,
            "dtype": self.dtype,
            "pixels": [pictures.min_pixels, pictures.max_pixels],
        }

    def model_class(self) -> Any:
        """Return the class of transformers that loads the model."""
        from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

        return AutoModelForImageTextToText if self.checkpoint.is_vision_language else AutoModelForCausalLM

    def text(self, request: Request) -> str:
        """Return all that the model reads, images aside; the dialogue with its answer."""
        return self.checkpoint.lay_out([*request.messages, ("assistant", request.answer)], request.system)

    def scores(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the score of each request of a batch (float32, one for each row)."""
        raise NotImplementedError

    @cached_property
    def model(self) -> Any:
        """The model, loaded.

        Raises:
            DataError: the checkpoint lacks weights that scores come from.
        """
        options = {"dtype": getattr(torch, self.dtype), "output_loading_info": True, "trust_remote_code": False}
        try:
            model, info = self.model_class().from_pretrained(self.checkpoint.readable, **options)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # of many kinds, by what is wrong with which file
            raise DataError(f"transformers cannot load {self.checkpoint.folder}: {error}") from error
        if info["missing_keys"]:  # transformers would fill them with random numbers
            absent = ", ".join(sorted(info["missing_keys"])[:3])
            raise DataError(
                f"{self.checkpoint.folder} lacks the weights {absent}: it is no model for --kind {self.kind}"
            )
        return model.to(self.device).eval()

    def score(self, requests: Iterable[Request]) -> Iterator[Scored]:
        """Score answers, batch by batch."""
        requests = iter(requests)
        while window := list(itertools.islice(requests, BATCHES_SORTED * self.batch_size)):
            window.sort(key=self._order, reverse=True)  # the longest first: what does not fit shows at once
            for _, alike in itertools.groupby(window, key=lambda request: bool(request.images)):
                alike = iter(alike)
                while batch := list(itertools.islice(alike, self.batch_size)):
                    yield self._score_batch(batch)

    def _order(self, request: Request) -> tuple[bool, int]:
        characters = len(request.answer) + sum(len(text) for _, text in request.messages)
        return bool(request.images), characters // 3 + sum(map(self.pictures.tokens, request.images))

    def _score_batch(self, batch: list[Request]) -> Scored:
        """Score a batch; if it fails, its halves, so that one bad request costs the others nothing."""
        try:
            with torch.inference_mode():
                scores = self.scores(self._encode(batch)).float().tolist()
            return [(request, finite_score(score)) for request, score in zip(batch, scores, strict=True)]
        except (ValueError, ImageError, torch.OutOfMemoryError) as error:
            if len(batch) == 1:
                return [(batch[0], Unscored(str(error).strip().split("\n")[0]))]
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
        half = len(batch) // 2
        return self._score_batch(batch[:half]) + self._score_batch(batch[half:])

    def _encode(self, batch: list[Request]) -> dict[str, torch.Tensor]:
        options: dict[str, Any] = {"return_tensors": "pt", "padding": len(batch) > 1, "add_special_tokens": False}
        texts = [self.text(request) for request in batch]
        if batch[0].images:
            options["images"] = [[self.pictures.load(image) for image in request.images] for request in batch]
        inputs = self.checkpoint.processor(text=texts, **options)
        longest = self.checkpoint.longest
        if longest and inputs["input_ids"].shape[1] > longest:
            raise ValueError(f"{inputs['input_ids'].shape[1]} tokens, and the model takes {longest}")
        dtype = getattr(torch, self.dtype)
        return {
            name: value.to(self.device, dtype if value.is_floating_point() else None) for name, value in inputs.items()
        }


def finite_score(score: float) -> float | Unscored:
    """Return a score, unless it is none: overflows and NaN come from half precision."""
    return score if abs(score) < float("inf") else Unscored(f"the model gave {score}; --dtype float32 may help")
