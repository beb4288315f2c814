"""Models that transformers runs, and what is read of their output: a logit, a value, or Yes and No.

Batches are padded on the right and read at each request's last token. For models that look back only, that is what
the request alone would give, also where positions are learned or states are carried on.
"""

import inspect
import itertools
import pickle
import sys
from collections.abc import Iterable, Iterator
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import torch

from ..errors import DataError
from .checkpoints import Checkpoint, choose_device
from .pictures import Pictures
from .requests import Request, Scored, Unscored
from .rubrics import YES_NO, fill, read_rubric


DTYPES = ("float32", "bfloat16", "float16")
BATCHES_SORTED = 32  # batches in memory to sort requests by length in
HEADS = ("value_head.safetensors", "value_head.bin")  # as LlamaFactory writes them
FORMS = "{0}|{1}|{2}| {0}| {1}| {2}"  # of a word: Yes, yes, YES, with and without the space before


class BatchScorer:
    """What scores several requests at a time; if one cannot be scored, that costs the others nothing.

    The kinds have `batches`, which cuts requests into batches, and `scores`, which returns the scores of a batch, or
    raises ValueError (as is ImageError) for one that cannot be scored, OutOfMemoryError for too many at a time.
    """

    uses_reference = uses_row = patient = False

    def score(self, requests: Iterable[Request]) -> Iterator[Scored]:
        """Score answers, batch by batch."""
        for batch in self.batches(iter(requests)):
            yield self._score_batch(batch)

    def _score_batch(self, batch: list[Request]) -> Scored:
        try:
            return [(request, _finite(score)) for request, score in zip(batch, self.scores(batch), strict=True)]
        except (ValueError, torch.OutOfMemoryError) as error:
            if len(batch) == 1:
                return [(batch[0], Unscored(str(error).strip().split("\n")[0]))]
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        half = len(batch) // 2
        return self._score_batch(batch[:half]) + self._score_batch(batch[half:])


class TransformersScorer(BatchScorer):
    """What the kinds have in common; each has `read`, which runs the model and returns the score of each request.

    It gets the inputs and the place of each request's last token.
    """

    kind: str

    def __init__(self, checkpoint: Checkpoint, pictures: Pictures, options: SimpleNamespace):
        """Prepare, with the options of `data.py score`; the model is loaded when there is something to score."""
        self.checkpoint, self.pictures, self.batch_size = checkpoint, pictures, options.batch_size
        self.device, self.dtype = choose_device(options.device), options.dtype
        if self.dtype == "auto":  # on a GPU the precision of the weights
            own = str(getattr(checkpoint.config, "dtype", None) or "float32").removeprefix("torch.")
            self.dtype = own if self.device.startswith("cuda") and own in DTYPES else "float32"
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

    @cached_property
    def model(self) -> Any:
        """The model, loaded; refused if it lacks weights that scores come from."""
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

    def batches(self, requests: Iterator[Request]) -> Iterator[list[Request]]:
        """Put requests of like length together, the longest first, so that what does not fit shows at once."""
        while window := list(itertools.islice(requests, BATCHES_SORTED * self.batch_size)):
            window.sort(key=self._order, reverse=True)
            for _, alike in itertools.groupby(window, key=lambda request: bool(request.images)):
                while batch := list(itertools.islice(alike, self.batch_size)):
                    yield batch

    def _order(self, request: Request) -> tuple[bool, int]:
        characters = len(request.answer) + sum(len(text) for _, text in request.messages)
        return bool(request.images), characters // 3 + sum(map(self.pictures.tokens, request.images))

    def scores(self, batch: list[Request]) -> list[float]:
        """Return the score of each request of a batch; they all have images, or none has."""
        options: dict[str, Any] = {"return_tensors": "pt", "padding": len(batch) > 1, "add_special_tokens": False}
        if batch[0].images:
            options["images"] = [[self.pictures.load(image) for image in request.images] for request in batch]
        inputs = self.checkpoint.processor(text=[self.text(request) for request in batch], **options)
        tokens, longest = inputs["input_ids"].shape[1], self.checkpoint.longest
        if longest and tokens > longest:
            raise ValueError(f"{tokens} tokens, and the model takes {longest}")
        dtype = getattr(torch, self.dtype)
        inputs = {
            name: value.to(self.device, dtype if value.is_floating_point() else None) for name, value in inputs.items()
        }
        with torch.inference_mode():
            return self.read(inputs, inputs["attention_mask"].sum(-1) - 1).float().tolist()


class Classifier(TransformersScorer):
    """A reward model for `AutoModelForSequenceClassification`.

    One label: its logit. Two: the log-odds of the second.
    """

    kind = "classifier"

    def __init__(self, checkpoint: Checkpoint, *args: Any):
        """Prepare, as all do; refuse what is no classifier, or one of more than two labels."""
        config, known = checkpoint.config, self.model_class()._model_mapping
        if type(config) not in known.keys():
            raise DataError(f"transformers has no classifier for {config.model_type} models.")
        if config.num_labels > 2:
            raise DataError(f"{checkpoint.folder} has {config.num_labels} labels, and a score comes from one or two.")
        super().__init__(checkpoint, *args)
        if self.batch_size > 1 and not _knows_padding(checkpoint):
            self.batch_size = 1
            print("scoring one at a time: the model's config does not know its tokenizer's padding", file=sys.stderr)
        self.reads_images &= "pixel_values" in inspect.signature(known[type(config)].forward).parameters

    def model_class(self) -> Any:
        """Return the class of transformers that loads the model."""
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    def read(self, inputs: dict[str, torch.Tensor], last: torch.Tensor) -> torch.Tensor:
        """Return logits, or log-odds."""
        logits = self.model(**inputs).logits.float()
        return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]


class ValueHead(TransformersScorer):
    """A reward model that LlamaFactory trained (`stage: rm`): the value at the last token."""

    kind = "value-head"

    def __init__(self, checkpoint: Checkpoint, *args: Any):
        """Prepare, as all do; refuse a folder without a value head."""
        self.heads = [path for name in HEADS if (path := checkpoint.folder / name).is_file()]
        if not self.heads:
            raise DataError(
                f"{checkpoint.folder} has no {' or '.join(HEADS)}, which LlamaFactory's `stage: rm` writes. For a "
                "classifier of transformers take --kind classifier, for a model that answers --kind yes-no."
            )
        super().__init__(checkpoint, *args)

    @cached_property
    def head(self) -> dict[str, torch.Tensor]:
        """Weight (1 x hidden) and bias (1) of the head, in float32; a file of something else is refused."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.heads[0]
        try:
            tensors = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
            names = {name: tensors[f"v_head.summary.{name}"] for name in ("weight", "bias")}
        except KeyError as error:
            raise DataError(f"{path} has no {error}, so it is not what LlamaFactory's `stage: rm` writes.") from error
        except (OSError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
            reason = str(error).strip().splitlines()[0]
            raise DataError(f"{path} cannot be read as the weights of a value head: {reason}") from error
        return {name: tensor.to(self.device, torch.float32) for name, tensor in names.items()}

    def read(self, inputs: dict[str, torch.Tensor], last: torch.Tensor) -> torch.Tensor:
        """Return the value of each request's last token."""
        hidden = self.model.base_model(**inputs, use_cache=False).last_hidden_state
        hidden = hidden[torch.arange(len(hidden), device=hidden.device), last]
        return torch.nn.functional.linear(hidden.float(), **self.head)[:, 0]


class YesNo(TransformersScorer):
    """A model that is asked whether the answer is good: log p(Yes) - log p(No) of how its reply begins."""

    kind = "yes-no"

    def __init__(self, checkpoint: Checkpoint, pictures: Pictures, options: SimpleNamespace):
        """Prepare, as all do; refuse a tokenizer that cannot say Yes or No in one token."""
        self.rubric = read_rubric(options.rubric, YES_NO)
        super().__init__(checkpoint, pictures, options)
        self.words = [_word_tokens(checkpoint.tokenizer, word) for word in ("Yes", "No")]
        self.identity["rubric"] = self.rubric

    def text(self, request: Request) -> str:
        """Return the rubric, filled in, up to where the model's reply begins."""
        return self.checkpoint.lay_out([("user", fill(self.rubric, request))], ask=True)

    def read(self, inputs: dict[str, torch.Tensor], last: torch.Tensor) -> torch.Tensor:
        """Return log-odds of Yes and No, each in all its forms."""
        options: dict[str, Any] = {"use_cache": False}
        if "logits_to_keep" in inspect.signature(self.model.forward).parameters:
            # The logits of all tokens would take gigabytes.
            options["logits_to_keep"], last = torch.unique(last, return_inverse=True)
        logits = self.model(**inputs, **options).logits
        logits = logits[torch.arange(len(last), device=last.device), last].float()
        yes, no = (logits[:, tokens].logsumexp(-1) for tokens in self.words)
        return yes - no


KINDS = {scorer.kind: scorer for scorer in (Classifier, ValueHead, YesNo)}


def _knows_padding(checkpoint: Checkpoint) -> bool:
    """Return whether the model can tell padding, by the id in its config, from the text whose last token it reads."""
    whole, text = checkpoint.config, checkpoint.config.get_text_config()
    known = {text.pad_token_id} | ({whole.pad_token_id} - {None} if whole is not text else set())
    return known == {checkpoint.tokenizer.pad_token_id}


def _word_tokens(tokenizer: Any, word: str) -> list[int]:
    """Return the tokens with which a reply can begin that says a word: those of its forms that are a single token."""
    forms = FORMS.format(word, word.lower(), word.upper()).split("|")
    encoded = [tokenizer.encode(form, add_special_tokens=False) for form in forms]
    found = sorted({tokens[0] for tokens in encoded if len(tokens) == 1} - {tokenizer.unk_token_id})
    if not found:
        raise DataError(f'the tokenizer has no single token for "{word}", so --kind yes-no cannot read a reply.')
    return found


def _finite(score: float) -> float | Unscored:
    """Return a score, unless it is none: overflows and NaN come from half precision."""
    return score if abs(score) < float("inf") else Unscored(f"the model gave {score}; --dtype float32 may help")
