"""What upstream cannot do on several ranks, with its own words, so that we notice when it can.

Stock losses run through LlamaFactory's own `run_dpo` and trainer, without anything of ours.
"""

from pathlib import Path

import pytest
from pairs import options
from ranks import ZERO, job, said, sharing, statuses, train_jobs


STOCK = {"pref_loss": "sigmoid", "pref_beta": 0.1, "max_steps": 2, "gradient_accumulation_steps": 1}
LORA = {"finetuning_type": "lora", "lora_rank": 4}
SAVING = STOCK | {"save_strategy": "steps", "save_steps": 2}
NO_DEVICE = "RuntimeError: There are currently no available devices found, must be one of 'XPU', 'CUDA', 'MLU'"
STOCK_DPO = "2 ranks, LlamaFactory's own DPO without us"
pytestmark = pytest.mark.long  # of upstream alone: nothing that a user of ours relies on
CPU_0 = "RuntimeError: don't know how to restore data location of torch.storage.UntypedStorage (tagged with cpu:0)"


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model, pair_data) -> Path:
    """Where all runs are, after they have ended."""
    place = tmp_path_factory.mktemp("upstream")

    def stock(name: str, strategy: str, run: dict, **environment: str) -> dict:
        made = job(place / name, strategy, 2, options(tiny_model, pair_data, place, **run))
        made["environment"] |= environment
        return made

    jobs = [stock(f"lora-{zero}", zero, STOCK | LORA) for zero in ZERO]
    jobs += [stock("saved", "ddp", SAVING), stock("resumed", "ddp", SAVING | {"max_steps": 4})]
    jobs[-1]["options"]["resume_from_checkpoint"] = str(place / "saved" / "out" / "checkpoint-2")
    jobs += [stock("fsdp2", "fsdp2", STOCK), stock("fsdp1", "fsdp1", STOCK, FSDP_SYNC_MODULE_STATES="true")]
    for made in jobs:
        made["environment"].pop("ACCELERATE_TORCH_DEVICE", None)
    train_jobs(jobs)
    return place


@pytest.mark.parametrize("zero", ZERO)
def test_lora_trains_under_zero(place, zero, figure):
    """Since transformers 5. With 4.57 and torch from 2.10 on it fails at the first scheduler step; ours trains."""
    assert statuses(place / f"lora-{zero}") == [0, 0], said(place / f"lora-{zero}")[-3000:]
    assert "UniDPOTrainer" not in said(place / f"lora-{zero}")
    figure("1 parallel", f"{STOCK_DPO}: LoRA by {zero}", 1, "trains; failed with transformers 4.57 and torch 2.10")


def test_resuming_fails_on_several_ranks_of_a_cpu(place, figure):
    """The optimizer's state is to be loaded to `cpu:0`, a device that torch does not know."""
    assert statuses(place / "saved") == [0, 0] and any(statuses(place / "resumed"))
    assert CPU_0 in said(place / "resumed") + said(place / "resumed", 1)
    figure("1 parallel", f"{STOCK_DPO}: resumed on a CPU", 1, f"fails: `{CPU_0}`")


def test_fsdp_is_refused_or_ignored_on_a_cpu(place, figure):
    """As `accelerate launch` configures version 1 it is refused; else accelerate takes DDP instead, without a word."""
    assert any(statuses(place / "fsdp1")) and NO_DEVICE in said(place / "fsdp1") + said(place / "fsdp1", 1)
    assert statuses(place / "fsdp2") == [0, 0]
    assert {rank["type"] for rank in sharing(place / "fsdp2")} == {"MULTI_CPU"}
    figure("1 parallel", f"{STOCK_DPO}: fsdp1 on a CPU", 1, f"fails: `{NO_DEVICE}`")
    figure("1 parallel", f"{STOCK_DPO}: fsdp2 on a CPU", 1, "trains by DDP, without a word")
