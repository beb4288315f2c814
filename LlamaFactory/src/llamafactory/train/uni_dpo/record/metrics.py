"""Metrics of a batch that stay on the device until they are logged."""

import torch


def of_batch(
    policy: dict[str, torch.Tensor],
    rewards: list[torch.Tensor],
    terms: dict[str, torch.Tensor],
    sizes: list[int] | None = None,
) -> dict[str, torch.Tensor]:
    """Gather upstream's metrics under upstream's names, and the terms of our loss under `uni_dpo/`.

    Args:
        policy: what `concatenated_forward` returned for the policy.
        rewards: chosen and rejected rewards, each of shape (batch,).
        terms: terms of the loss, each of shape (batch,).
        sizes: how many pairs each of the micro-batches had that were joined to this batch; None: it is one.

    Returns:
        Means on the device, scalars, or of shape (micro-batches,). `logits/*` are means over whatever logits the
        forward has: all positions of upstream's padded rows, the scored positions of the engine's.
    """
    chosen, rejected = rewards
    columns = {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/accuracies": (chosen > rejected).float(),
        "rewards/margins": chosen - rejected,
        "logps/chosen": policy["chosen_logps"],
        "logps/rejected": policy["rejected_logps"],
        "logits/chosen": policy["chosen_logits"],
        "logits/rejected": policy["rejected_logits"],
    }
    columns |= {f"uni_dpo/{name}": values for name, values in terms.items()}
    return {name: means(values.detach(), sizes) for name, values in columns.items()}


def of_orpo(
    losses: torch.Tensor, sft_loss: torch.Tensor, beta: float, sizes: list[int] | None = None
) -> dict[str, torch.Tensor]:
    """Split ORPO's losses into their two parts, as upstream does; all of shape (batch,)."""
    parts = {"sft_loss": sft_loss, "odds_ratio_loss": (losses - sft_loss) / beta}
    return {name: means(values.detach(), sizes) for name, values in parts.items()}


def means(values: torch.Tensor, sizes: list[int] | None) -> torch.Tensor:
    """Return the mean of values of shape (batch,), or of the part of each micro-batch, shape (micro-batches,)."""
    return values.mean() if sizes is None else torch.stack([part.mean() for part in values.split(sizes)])


def read(stored: dict[str, list]) -> None:
    """Replace lists of means on the device by lists of numbers, in one transfer.

    Some may be numbers already: an evaluation reads those of training that are not logged yet, too.
    """
    pending = {name: [value for value in values if torch.is_tensor(value)] for name, values in stored.items()}
    flat = {name: torch.cat([each.float().view(-1) for each in values]) for name, values in pending.items() if values}
    if not flat:
        return
    numbers = torch.cat(list(flat.values())).tolist()
    for name, values in flat.items():
        known = [value for value in stored[name] if not torch.is_tensor(value)]
        stored[name], numbers = known + numbers[: len(values)], numbers[len(values) :]
