"""What the first step of a run holds in which precision, printed by every rank as `precision: {...}`."""

import json
from typing import Any
from unittest import mock

import torch
from transformers import TrainerCallback

from llamafactory.train.uni_dpo.training.trainer import UniDPOTrainer


class Precisions(TrainerCallback):
    """Looks at a run from within; made just before it starts, in a process of its own."""

    def __init__(self):
        """Look on at the trainer and, under DeepSpeed, at its engine, which steps on its own."""
        self.seen: dict[str, Any] = {"logps": []}
        forward, reference = UniDPOTrainer.concatenated_forward, UniDPOTrainer.compute_reference_log_probs
        loss, prepare = UniDPOTrainer.compute_preference_loss, UniDPOTrainer._prepare_inputs

        def watch_forward(trainer, *args, **kwargs):
            output = forward(trainer, *args, **kwargs)
            if torch.is_grad_enabled():  # not the self-check
                self.seen["policy"] = _name(output["chosen_logps"])
                self.seen["logps"] += [*output["chosen_logps"].tolist(), *output["rejected_logps"].tolist()]
            return output

        def watch_reference(trainer, *args, **kwargs):
            output = reference(trainer, *args, **kwargs)
            self.seen["reference"] = _name(output[0])
            return output

        def watch_loss(trainer, *logps):
            losses, *rewards = loss(trainer, *logps)
            self.seen["losses"] = _name(losses)
            self.seen["rewards"] = _name(rewards[0])
            self.seen["apart"] = float((logps[0] - logps[2]).abs().max())
            return (losses, *rewards)

        def watch_inputs(trainer, *args, **kwargs):
            batch = prepare(trainer, *args, **kwargs)
            self.seen["scores"] = _name(batch["score_chosen"])
            return batch

        mock.patch.multiple(
            UniDPOTrainer,
            concatenated_forward=watch_forward,
            compute_reference_log_probs=watch_reference,
            compute_preference_loss=watch_loss,
            _prepare_inputs=watch_inputs,
        ).start()

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        """Let DeepSpeed show gradients before it steps."""
        if not args.deepspeed:
            return
        from deepspeed.runtime.engine import DeepSpeedEngine
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_grad

        step = DeepSpeedEngine.step

        def watch_step(engine, *args, **kwargs):
            if engine.is_gradient_accumulation_boundary() and "gradients" not in self.seen:
                self._look(engine.module, safe_get_full_grad, safe_get_full_fp32_param)
            return step(engine, *args, **kwargs)

        mock.patch.object(DeepSpeedEngine, "step", watch_step).start()

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        """Look at gradients of all micro-batches together."""
        if "gradients" not in self.seen and not args.deepspeed:
            self._look(model, lambda weight: _whole(weight.grad), _whole)

    def _look(self, model: torch.nn.Module, gradient_of: Any, stepped_of: Any) -> None:
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        gradients = [gradient for gradient in map(gradient_of, trained) if gradient is not None]
        exact = [bool((gradient == gradient.bfloat16()).all()) for gradient in gradients if gradient.any()]
        self.seen |= {
            "computed": sorted({_name(weight) for weight in trained}),
            "stepped": sorted({_name(stepped) for stepped in map(stepped_of, trained) if stepped is not None}),
            "frozen": sorted({_name(weight) for weight in model.parameters() if not weight.requires_grad}),
            "gradients": sorted({_name(gradient) for gradient in gradients}),
            # Whether sums of micro-batches have no more digits than bfloat16 has.
            "rounded": sum(exact) > len(exact) // 2,
        }

    def on_step_end(self, args, state, control, **kwargs):
        """Tell, once."""
        if state.global_step == 1:
            print(f"precision: {json.dumps(self.seen)}", flush=True)


def _name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _whole(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
