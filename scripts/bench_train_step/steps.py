"""One preference step on one batch, by any variant: policy forward and backward, and reference forward."""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from llamafactory.data.template import TEMPLATES
from llamafactory.train.dpo.trainer import CustomDPOTrainer
from llamafactory.train.uni_dpo.data.collate import MEDIA_KEYS, PairCollator, upstream_rows
from llamafactory.train.uni_dpo.engine import Choice, PairLogps, logps, pair_logps

from .models import Models
from .variants import PADDED_TO, VARIANTS, Pair, Variant


BETA = 0.1
CHUNK_TOKENS = 128
PIXELS = 28  # along the side of an image token

# What `concatenated_forward` asks its trainer for.
LIKE_TRAINER = SimpleNamespace(
    finetuning_args=SimpleNamespace(use_ref_model=True), ld_alpha=None, loss_type="sigmoid", label_smoothing=0.0
)


class Steps:
    """Steps on one batch. Gradients add up, as in training; `policy.zero_grad()` is the caller's."""

    def __init__(self, models: Models, pairs: tuple[Pair, ...], seed: int = 0):
        """Collate the batch for every layout, and compute what caches would hold."""
        self.models, self.pairs = models, pairs
        rows = _features(models, pairs, seed)
        self.upstream = _collate(models, rows, None)
        layouts = ("rows", "masked", "packed")
        self.batches = {kind: _collate(models, rows, Choice("shared_prefix", kind)) for kind in layouts}
        with torch.no_grad(), self._autocast():
            found = self._engine(models.reference, VARIANTS["everything"], {})
        self.cached_reference, self.cached_features = found.logps, found.features

    def run(self, name: str) -> torch.Tensor:
        """Run one step, and return log-probs of the 2n sequences under the policy, then under the reference."""
        variant = VARIANTS[name]
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
        with _budget(VARIANTS[name].head, vocabulary):
            return VARIANTS[name].scores_answers and logps.chunk_size(tokens, vocabulary) < tokens

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
        media = upstream_rows(batch) if variant.images == "row" else batch
        media = {name: media.get(name) for name in MEDIA_KEYS} if not features else {}
        return pair_logps(model, batch["pair_layout"], media, features)

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
    rows = []
    for pair in pairs:
        text = pair.prompt - pair.image_tokens - 2
        words = rng.integers(1000, models.sizes.vocabulary, text + pair.chosen + pair.rejected).tolist()
        image = [config.image_token_id] * pair.image_tokens
        image = [config.vision_start_token_id, *image, config.vision_end_token_id]
        prompt = [*words[: text // 2], *image, *words[text // 2 : text]]
        height, width = (PIXELS * side for side in pair.image)
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
        template=TEMPLATES["qwen2_vl"],
        model=models.policy,
        tokenizer=models.processor.tokenizer,
        processor=models.processor,
        pad_to_multiple_of=PADDED_TO,
    )
    if choice is not None:
        collator.serve(choice)
    batch = collator([dict(row) for row in rows])
    return {name: value.to(models.device) if hasattr(value, "to") else value for name, value in batch.items()}
