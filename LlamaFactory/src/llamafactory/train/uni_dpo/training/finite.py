"""A guard that stops a run before anything of a NaN or an infinity is logged or saved."""

import math
from typing import Any

import torch

from ...dpo.trainer import CustomDPOTrainer
from ..errors import NonFiniteError


class StopsAtNonFinite(CustomDPOTrainer):
    """LlamaFactory's DPO trainer that ends a run whose loss, gradient or weights are not finite."""

    def _maybe_log_save_evaluate(self, tr_loss: torch.Tensor, grad_norm: Any, *args: Any, **kwargs: Any) -> None:
        """Look at the loss and the gradient of every optimizer step before anything of it is logged or saved.

        Raises:
            NonFiniteError: one of them is not finite.
        """
        loss, norm = float(tr_loss), float(grad_norm or 0.0)
        # Under fp16 an infinite norm is the loss scaler at work: it skips the step and lowers its scale.
        if not math.isfinite(loss) or not (math.isfinite(norm) or self.args.fp16):
            raise self._non_finite_error(f"loss {loss}, gradient norm {norm}")
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        """Save checkpoints and the final model as upstream does, if their weights are finite on every rank.

        Raises:
            NonFiniteError: they are not; the last step broke them after a finite loss and gradient.
        """
        trained = (weight for weight in self.model.parameters() if weight.requires_grad)
        # Under ZeRO-3 a parameter is an empty placeholder, and `ds_tensor` this rank's share of it.
        shares = (getattr(weight, "ds_tensor", weight) for weight in trained)
        broken = sum(int(not torch.isfinite(share).all()) for share in shares)
        if self.accelerator.reduce(torch.tensor(broken, device=self.args.device), "sum") > 0:
            raise self._non_finite_error("weights are not finite")
        super().save_model(*args, **kwargs)

    def _non_finite_error(self, what: str) -> NonFiniteError:
        return NonFiniteError(
            f"Step {self.state.global_step}: {what}. No weights of this step were saved, and the checkpoints in "
            f"{self.args.output_dir} are as they were. Usual causes: a learning rate too high, or a model that "
            "overflows in fp16 (use bf16). `uni_dpo_log_pairs: true` shows the pairs of each step."
        )
