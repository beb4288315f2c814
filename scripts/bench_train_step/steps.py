"""One preference step on one batch, by any variant: policy forward and backward, and reference forward."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from llamafactory.data.template import TEMPLATES
from llamafactory.train.dpo.trainer import CustomDPOTrainer
from llamafactory.train.uni_dpo.data.collate import MEDIA_KEYS, ROW_KEYS, PairCollator, upstream_rows
from llamafactory.train.uni_dpo.engine import Choice, PairLogps, logps, pair_logps, placeholder_ids

from .counts import PADDED_TO
from .kinds import side_of
from .models import Models
from .sizes import KINDS
from .variants import Pair, Variant, variants_of


BETA = 0.1
CHUNK_TOKENS = 128

# What `concatenated_forward` asks its trainer for.
LIKE_TRAINER = SimpleNamespace(
    finetuning_args=SimpleNamespace(use_ref_model=True), ld_alpha=None, loss_type="sigmoid", label_smoothing=0.0
)


class Steps:
    """Steps on one batch. Gradients add up, as in training; `policy.zero_grad()` is the caller's."""

    def __init__(self, models: Models, pairs: tuple[Pair, ...], seed: int = 0):
        """Collate the batch for every layout, and compute what caches would hold."""
        self.models, self.pairs, self.variants = models, pairs, variants_of(models.sizes.kind)
        rows = _features(models, pairs, seed)
        self.upstream = _collate(models, rows, None)
        layouts = {variant.forward for variant in self.variants.values()} & {"rows", "masked", "packed"}
        self.batches = {kind: _collate(models, rows, Choice("shared_prefix", kind)) for kind in layouts}
        with torch.no_grad(), self._autocast():
            found = self._engine(models.reference, self.variants["everything"], {})
        self.cached_reference, self.cached_features = found.logps, found.features

    def run(self, name: str) -> torch.Tensor:
        """Run one step, and return log-probs of the 2n sequences under the policy, then under the reference."""
        variant = self.variants[name]
        with self._autocast(), _budget(variant.head, self.models.sizes.vocabulary):
            if variant.forward == "liger":
                loss, policy, reference = self._liger_step()
            else:
                policy, reference = self._upstream_step() if name == "upstream" else self._engine_step(variant)
                loss = dpo_loss(policy, reference)
        loss.backward()
        return torch.cat([policy, reference]).detach()

    def chunks(self, name: str) -> bool:
        """Tell whether a variant computes its logits in chunks."""
        vocabulary, tokens = self.models.sizes.vocabulary, sum(pair.chosen + pair.rejected for pair in self.pairs)
        if not KINDS[self.models.sizes.kind].shares:
            return False  # the model's own output layer takes all of them
        with _budget(self.variants[name].head, vocabulary):
            return self.variants[name].scores_answers and logps.chunk_size(tokens, vocabulary) < tokens

    def _upstream_step(self) -> tuple[torch.Tensor, torch.Tensor]:
        forward = CustomDPOTrainer.concatenated_forward
        # Both outputs hold logits, and live for as long as in LlamaFactory: until the loss is there.
        policy = forward(LIKE_TRAINER, self.models.policy, dict(self.upstream))
        with torch.no_grad():
            reference = forward(LIKE_TRAINER, self.models.reference, dict(self.upstream), is_ref_model=True)
        outputs = (policy, reference)
        return tuple(torch.cat([output["chosen_logps"], output["rejected_logps"]]) for output in outputs)

    def _engine_step(self, variant: Variant) -> tuple[torch.Tensor, torch.Tensor]:
        given = self.cached_features if variant.images == "cached" else {}
        policy = self._engine(self.models.policy, variant, given)
        if not variant.runs_reference:
            return policy.logps, self.cached_reference
        with torch.no_grad():
            shared = policy.features if variant.images == "once" else {}
            return policy.logps, self._engine(self.models.reference, variant, shared).logps

    def _engine(self, model: nn.Module, variant: Variant, features: dict[str, torch.Tensor]) -> PairLogps:
        batch = self.batches[variant.forward]
        layout, media = batch["pair_layout"], batch
        if variant.images == "row":
            media, layout = upstream_rows(batch), replace(layout, media_once=False)
        kept = MEDIA_KEYS if not features else ()
        rows = {name: media[name] for name in ROW_KEYS if name in media}
        return pair_logps(model, layout, {name: media.get(name) for name in kept} | rows, features)

    def _liger_step(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        from liger_kernel.chunked_loss import LigerFusedLinearDPOLoss

        batch = dict(self.upstream)
        labels = batch.pop("labels")[:, 1:]
        hidden = self.models.policy.model(**batch, use_cache=False).last_hidden_state[:, :-1]
        with torch.no_grad():
            other = self.models.reference.model(**batch, use_cache=False).last_hidden_state[:, :-1]
        score = LigerFusedLinearDPOLoss(beta=BETA, compiled=labels.is_cuda)
        weights = [part.lm_head.weight for part in (self.models.policy, self.models.reference)]
        loss, outputs = score(weights[0], hidden, labels, ref_input=other, ref_weight=weights[1])
        policy, rewards = torch.cat(outputs[:2]), torch.cat(outputs[-2:])
        return loss, policy, policy - rewards / BETA

    def _autocast(self) -> contextlib.AbstractContextManager:
        device = self.models.device.type
        return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")


def dpo_loss(policy: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Compute the mean DPO loss (arXiv 2305.18290, equation 7) of n pairs from log-probs of shape (2n,)."""
    chosen, rejected = (policy - reference).chunk(2)
    return -F.logsigmoid(BETA * (chosen - rejected)).mean()


@contextlib.contextmanager
def _budget(head: str, vocabulary: int) -> Iterator[None]:
    kept = logps.LOGITS_BUDGET
    tokens = {"whole": 2**40, "chunks": CHUNK_TOKENS}.get(head)
    logps.LOGITS_BUDGET = kept if tokens is None else 4 * vocabulary * tokens
    try:
        yield
    finally:
        logps.LOGITS_BUDGET = kept


def _features(models: Models, pairs: tuple[Pair, ...], seed: int) -> list[dict[str, Any]]:
    """Draw what LlamaFactory's preprocessing makes of pairs: random tokens around an image of noise."""
    rng, config = np.random.default_rng(seed), models.policy.config
    around = ("<|vision_start|>", "<|vision_end|>")
    start, end = models.processor.tokenizer.convert_tokens_to_ids(around)
    pixels = side_of(models.sizes.kind)
    rows = []
    for pair in pairs:
        text = pair.prompt - pair.image_tokens - 2
        words = rng.integers(1000, models.sizes.vocabulary, text + pair.chosen + pair.rejected).tolist()
        image = [start, *[placeholder_ids(config)[0]] * pair.image_tokens, end]
        prompt = [*words[: text // 2], *image, *words[text // 2 : text]]
        height, width = (pixels * side for side in pair.image)
        noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        row = {"images": [Image.fromarray(noise)], "videos": None, "audios": None}
        answers = {"chosen": words[text : text + pair.chosen], "rejected": words[text + pair.chosen :]}
        for side, answer in answers.items():
            row[f"{side}_input_ids"] = prompt + answer
            row[f"{side}_attention_mask"] = [1] * len(prompt + answer)
            row[f"{side}_labels"] = [-100] * len(prompt) + answer
        rows.append(row)
    return rows


def _collate(models: Models, rows: list[dict[str, Any]], choice: Choice | None) -> dict[str, Any]:
    collator = PairCollator(
        template=TEMPLATES[KINDS[models.sizes.kind].template],
        model=models.policy,
        tokenizer=models.processor.tokenizer,
        processor=models.processor,
        pad_to_multiple_of=PADDED_TO,
    )
    if choice is not None:
        collator.serve(choice)
    batch = collator([dict(row) for row in rows])
    return {name: value.to(models.device) if hasattr(value, "to") else value for name, value in batch.items()}
