"""What is read of a model's output: a classifier's logit, a value head's value, a judge's Yes and No."""

import inspect
import pickle
import sys
from functools import cached_property
from typing import Any

import torch

from ..errors import DataError
from .checkpoints import Checkpoint
from .local import TransformersScorer
from .pictures import Pictures
from .requests import Request
from .rubrics import fill


HEADS = ("value_head.safetensors", "value_head.bin")  # as LlamaFactory writes them
FORMS = "{0}|{1}|{2}| {0}| {1}| {2}"  # of a word: Yes, yes, YES, with and without the space before


class Classifier(TransformersScorer):
    """A reward model for `AutoModelForSequenceClassification`.

    One label: its logit. Two: the log-odds of the second.
    """

    kind = "classifier"

    def __init__(self, checkpoint: Checkpoint, *args: Any):
        """Prepare, as all do.

        Raises:
            DataError: it is no classifier, or one of more than two labels.
        """
        if type(checkpoint.config) not in self.model_class()._model_mapping.keys():
            raise DataError(f"transformers has no classifier for {checkpoint.config.model_type} models.")
        if checkpoint.config.num_labels > 2:
            raise DataError(
                f"{checkpoint.folder} has {checkpoint.config.num_labels} labels, and a score comes from one or two."
            )
        super().__init__(checkpoint, *args)
        if self.batch_size > 1 and not _knows_padding(checkpoint):
            self.batch_size = 1
            print("scoring one at a time: the model's config does not know its tokenizer's padding", file=sys.stderr)
        forward = self.model_class()._model_mapping[type(checkpoint.config)].forward
        self.reads_images = self.reads_images and "pixel_values" in inspect.signature(forward).parameters

    def model_class(self) -> Any:
        """Return the class of transformers that loads the model."""
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification

    def scores(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return logits, or log-odds."""
        logits = self.model(**inputs).logits.float()
        return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]


def _knows_padding(checkpoint: Checkpoint) -> bool:
    """Return whether the model can tell padding, by the id in its config, from the text whose last token it reads."""
    whole, text = checkpoint.config, checkpoint.config.get_text_config()
    known = {text.pad_token_id} | ({whole.pad_token_id} - {None} if whole is not text else set())
    return known == {checkpoint.tokenizer.pad_token_id}


class ValueHead(TransformersScorer):
    """A reward model that LlamaFactory trained (`stage: rm`): the value at the last token."""

    kind = "value-head"

    def __init__(self, checkpoint: Checkpoint, *args: Any):
        """Prepare, as all do.

        Raises:
            DataError: there is no value head.
        """
        if not any((checkpoint.folder / name).is_file() for name in HEADS):
            raise DataError(
                f"{checkpoint.folder} has no {' or '.join(HEADS)}, which LlamaFactory's `stage: rm` writes. For a "
                "classifier of transformers take --kind classifier, for a model that answers --kind yes-no."
            )
        super().__init__(checkpoint, *args)

    @cached_property
    def head(self) -> dict[str, torch.Tensor]:
        """Weight (1 x hidden) and bias (1) of the head, in float32.

        Raises:
            DataError: the file holds something else.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = next(self.checkpoint.folder / name for name in HEADS if (self.checkpoint.folder / name).is_file())
        try:
            tensors = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
        except (OSError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
            reason = str(error).strip().splitlines()[0]
            raise DataError(f"{path} cannot be read as the weights of a value head: {reason}") from error
        try:
            names = {name: tensors[f"v_head.summary.{name}"] for name in ("weight", "bias")}
        except KeyError as error:
            raise DataError(f"{path} has no {error}, so it is not what LlamaFactory's `stage: rm` writes.") from error
        return {name: tensor.to(self.device, torch.float32) for name, tensor in names.items()}

    def scores(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the value of each request's last token."""
        hidden = self.model.base_model(**inputs, use_cache=False).last_hidden_state
        last = inputs["attention_mask"].sum(-1) - 1
        hidden = hidden[torch.arange(len(hidden), device=hidden.device), last]
        return torch.nn.functional.linear(hidden.float(), **self.head)[:, 0]


class YesNo(TransformersScorer):
    """A model that is asked whether the answer is good: log p(Yes) - log p(No) of how its reply begins."""

    kind = "yes-no"

    def __init__(self, checkpoint: Checkpoint, pictures: Pictures, rubric: str, *args: Any):
        """Prepare, as all do; `rubric` is what is asked.

        Raises:
            DataError: the tokenizer cannot say Yes or No in one token.
        """
        super().__init__(checkpoint, pictures, *args)
        self.rubric = rubric
        self.words = [word_tokens(checkpoint.tokenizer, word) for word in ("Yes", "No")]
        self.identity["rubric"] = rubric

    def text(self, request: Request) -> str:
        """Return the rubric, filled in, up to where the model's reply begins."""
        return self.checkpoint.lay_out([("user", fill(self.rubric, request))], ask=True)

    def scores(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return log-odds of Yes and No, each in all its forms."""
        last = inputs["attention_mask"].sum(-1) - 1
        kept, place = torch.unique(last, return_inverse=True)
        options: dict[str, Any] = {"use_cache": False}
        if "logits_to_keep" in inspect.signature(self.model.forward).parameters:
            options["logits_to_keep"] = kept  # the logits of all tokens would take gigabytes
        else:
            place = last
        logits = self.model(**inputs, **options).logits
        logits = logits[torch.arange(len(last), device=last.device), place].float()
        yes, no = (logits[:, tokens].logsumexp(-1) for tokens in self.words)
        return yes - no


def word_tokens(tokenizer: Any, word: str) -> list[int]:
    """Return the tokens with which a reply can begin that says a word: those of its forms that are a single token.

    Raises:
        DataError: there is none.
    """
    forms = FORMS.format(word, word.lower(), word.upper()).split("|")
    encoded = [tokenizer.encode(form, add_special_tokens=False) for form in forms]
    found = sorted({tokens[0] for tokens in encoded if len(tokens) == 1} - {tokenizer.unk_token_id})
    if not found:
        raise DataError(f'the tokenizer has no single token for "{word}", so --kind yes-no cannot read a reply.')
    return found
