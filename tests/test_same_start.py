"""Policy and reference before the first step: the same model, or another one that the user has named."""

import pytest
import torch
from pairs import make_rows, options, train, write_dataset

from llamafactory.train.dpo import workflow
from llamafactory.train.uni_dpo.errors import UniDPOError
from llamafactory.train.uni_dpo.models.history import check_chain
from llamafactory.train.uni_dpo.training import same_start


LORA = {"finetuning_type": "lora", "lora_rank": 4}
AVERAGED = {"pref_loss": "sigmoid", "dpo_average_log_prob": True}


@pytest.fixture(scope="module")
def world(tiny_model, tmp_path_factory):
    """Data, and an adapter as of an earlier training, whose dropout has an effect."""
    folder = tmp_path_factory.mktemp("start")
    data = write_dataset(folder / "data", make_rows(folder / "data", 8))
    run = options(tiny_model, data, folder / "sft", pref_loss="sigmoid", learning_rate=0.05, max_steps=2, **LORA)
    train(run | {"lora_dropout": 0.3})
    return lambda out, **changes: options(tiny_model, data, out, max_steps=1, **LORA | changes), str(folder / "sft")


def margin(logs):
    return logs[0]["rewards/margins"]


@pytest.mark.parametrize("loss", [{}, AVERAGED, {"pref_loss": "ipo", "pref_forward": "upstream"}])
def test_training_on_in_an_adapter_is_refused_with_the_ways_out(world, tmp_path, loss):
    run, sft = world
    with pytest.raises(UniDPOError, match="create_new_adapter: true.*ref_model_adapters: ") as refusal:
        train(run(tmp_path, adapter_name_or_path=sft, **loss))
    assert sft in str(refusal.value) and not list(tmp_path.glob("*.safetensors"))


def test_the_ways_out(world, tmp_path, tiny_model, monkeypatch):
    """Margins of the first step: none with a new adapter or with the same one for the reference.

    The latter's dropout makes the policy's forward in training another one; without dropout the two agree.
    """
    run, sft = world
    said = []
    monkeypatch.setattr(same_start.logger, "info_rank0", said.append)
    new = train(run(tmp_path / "new", adapter_name_or_path=sft, create_new_adapter=True, lora_dropout=0.3))
    assert abs(margin(new)) < 1e-4
    base = {"adapter_name_or_path": sft, "ref_model": str(tiny_model)}
    train(run(tmp_path / "same", **base, ref_model_adapters=sft))
    told = train(run(tmp_path / "told", **base))
    assert abs(margin(told)) > 1
    assert len(said) == 1 and f"nats on the first pairs, as `ref_model: {tiny_model}` asks" in said[0]


def test_simpo_has_no_reference(world, tmp_path):
    run, sft = world
    train(run(tmp_path, adapter_name_or_path=sft, pref_loss="simpo", pref_forward="auto"))


def test_training_on_in_an_adapter_of_ours(world, tmp_path):
    """Its reference was the model without it, and stays so."""
    run, _ = world
    train(run(tmp_path / "first", learning_rate=0.05))
    again = train(run(tmp_path / "again", adapter_name_or_path=str(tmp_path / "first")))
    assert abs(margin(again)) > 0.1


@pytest.mark.parametrize("loss", [{}, AVERAGED])
def test_another_reference_is_noticed_before_the_first_step(world, tmp_path, monkeypatch, loss):
    """However it comes about: here, by weights that went wrong in loading."""
    run, _ = world
    create = workflow.create_ref_model

    def broken(*args, **kwargs):
        model = create(*args, **kwargs)
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(1.5)
        return model

    monkeypatch.setattr(workflow, "create_ref_model", broken)
    with pytest.raises(UniDPOError, match="Before the first step, policy and reference differ by up to .* nats"):
        train(run(tmp_path, finetuning_type="full", lora_rank=None, **loss))
    assert not list(tmp_path.glob("*.safetensors"))


def test_adapters_without_those_they_were_trained_on_top_of(world, tmp_path):
    run, sft = world
    train(run(tmp_path / "top", adapter_name_or_path=sft, create_new_adapter=True))
    top = str(tmp_path / "top")
    with pytest.raises(UniDPOError, match=f"adapter_name_or_path: {sft},{top}"):
        train(run(tmp_path / "x", adapter_name_or_path=top, create_new_adapter=True))
    check_chain("ref_model_adapters", [sft, top])
    with pytest.raises(UniDPOError, match="ref_model_adapters"):
        check_chain("ref_model_adapters", [top])
