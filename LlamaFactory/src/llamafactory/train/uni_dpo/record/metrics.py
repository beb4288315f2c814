"""Metrics of a batch that stay on the device until they are logged."""

import torch


def of_batch(
    policy: dict[str, torch.Tensor], rewards: list[torch.Tensor], terms: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Gather upstream's metrics under upstream's names, and the terms of our loss under `uni_dpo/`.

    Args:
        policy: what `concatenated_forward` returned for the policy.
        rewards: chosen and rejected rewards, each of shape (batch,).
        terms: terms of the loss, each of shape (batch,).

    Returns:
        Scalars on the device. `logits/*` are means over whatever logits the forward has: all positions of upstream's
        padded rows, the scored positions of the engine's.
    """
    chosen, rejected = rewards
    means = {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/accuracies": (chosen > rejected).float(),
        "rewards/margins": chosen - rejected,
        "logps/chosen": policy["chosen_logps"],
        "logps/rejected": policy["rejected_logps"],
        "logits/chosen": policy["chosen_logits"],
        "logits/rejected": policy["rejected_logits"],
    }
    means |= {f"uni_dpo/{name}": values for name, values in terms.items()}
    return {name: values.detach().mean() for name, values in means.items()}


def of_orpo(losses: torch.Tensor, sft_loss: torch.Tensor, beta: float) -> dict[str, torch.Tensor]:
    """Split ORPO's losses into their two parts, as upstream does; all of shape (batch,)."""
    parts = {"sft_loss": sft_loss, "odds_ratio_loss": (losses - sft_loss) / beta}
    return {name: values.detach().mean() for name, values in parts.items()}


def read(stored: dict[str, list]) -> None:
    """Replace lists of scalars on the device by lists of numbers, in one transfer."""
    pending = {name: values for name, values in stored.items() if values and torch.is_tensor(values[0])}
    if not pending:
        return
    numbers = iter(torch.stack([value.float() for values in pending.values() for value in values]).tolist())
    for name, values in pending.items():
        stored[name] = [next(numbers) for _ in values]
