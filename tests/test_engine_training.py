"""The engine under what training adds: checkpointing of activations, LoRA, features of a frozen tower for both models.

In float64, against LlamaFactory's forward without checkpointing.
"""

import types

import pytest
import torch
from engine_cases import CASES, TEXT_CASES, build_two, collate, media_of
from engine_models import build
from engine_oracle import MEDIA_IDS, by_engine, by_upstream, exact_float64  # noqa: F401
from peft import LoraConfig, get_peft_model

from llamafactory.model.model_utils.checkpointing import _gradient_checkpointing_enable
from llamafactory.train.uni_dpo.engine import Choice, attach, lay_out, pair_logps, same_vision_tower


LAYOUTS = ("packed", "masked", "rows")
EXACT = 1e-9

pytestmark = pytest.mark.usefixtures("exact_float64")


def options(layout, **others):
    return {"dtype": torch.float64, "attention": "eager" if layout == "masked" else "sdpa"} | others


def calls_of(module):
    """Count the calls of a module from now on."""
    calls = []
    module.register_forward_pre_hook(lambda *_: calls.append(1))  # recomputation may stop before the end
    return calls


def transformers_checkpointing(model, reentrant):
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})


def llamafactory_checkpointing(model, reentrant):
    """As LlamaFactory's `prepare_model_for_training` does."""
    model.gradient_checkpointing_enable = types.MethodType(_gradient_checkpointing_enable, model)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})


CHECKPOINTED = [  # each two of layout, way, variant and tower stand together once at least
    ("packed", transformers_checkpointing, True, True),
    ("packed", llamafactory_checkpointing, False, False),
    ("masked", transformers_checkpointing, False, True),
    ("masked", llamafactory_checkpointing, True, False),
    ("rows", transformers_checkpointing, True, False),
    ("rows", llamafactory_checkpointing, False, True),
]


@pytest.mark.parametrize("layout, enable, reentrant, frozen", CHECKPOINTED)
def test_checkpointing(layout, enable, reentrant, frozen):
    """Layers run again in the backward pass, and have to find the same attention then."""
    stock, ours = (build_two("qwen2_vl", frozen, **options(layout)) for _ in range(2))
    batch = collate(stock[0], CASES["batch"])
    enable(ours[0], reentrant)
    calls = calls_of(ours[0].model.language_model.layers[0].mlp)
    outcome = by_engine(*ours, batch, layout)
    assert len(calls) == 2  # it was checkpointed
    assert outcome.distance(by_upstream(*stock, batch)) < EXACT


def with_adapter(kind, layout, targets, copies=None):
    model = build(kind, **options(layout))
    torch.manual_seed(0)
    config = LoraConfig(
        r=2, target_modules=targets, modules_to_save=copies, init_lora_weights=False, task_type="CAUSAL_LM"
    )
    return get_peft_model(model, config).train()


@pytest.mark.parametrize("head", [False, True], ids=["lora", "lora on lm_head"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl", "llama"])
def test_lora(kind, layout, head):
    """The policy is a PEFT model, its reference the same without adapter; an adapted `lm_head` is more than a weight.

    A pattern like this one leaves the vision tower alone, as LlamaFactory's `freeze_vision_tower` does.
    """
    targets = r"(?!.*visual).*(q_proj|v_proj|up_proj)" + (r"|.*lm_head" if head else "")
    stock, ours = (with_adapter(kind, layout, targets) for _ in range(2))
    assert isinstance(ours.get_base_model().lm_head, torch.nn.Linear) is not head
    batch = collate(stock.get_base_model(), (TEXT_CASES if kind == "llama" else CASES)["batch"])
    theirs = by_upstream(stock, None, batch)
    assert (theirs.logps - theirs.reference).abs().min() > 1e-3  # the adapter does something
    assert by_engine(ours, None, batch, layout).distance(theirs) < EXACT


@pytest.mark.parametrize("layout", LAYOUTS)
def test_trained_copies_beside_lora(layout):
    """LlamaFactory's `additional_target`: PEFT keeps a copy of the embedding and of `lm_head`, and trains that."""
    outcomes = []
    for engine in (False, True):
        model = with_adapter("qwen2_vl", layout, ["q_proj"], copies=["embed_tokens", "lm_head"])
        with torch.no_grad():
            model.get_base_model().lm_head.modules_to_save["default"].weight.mul_(1.1)
        batch = collate(model.get_base_model(), CASES["batch"])
        outcomes.append(by_engine(model, None, batch, layout) if engine else by_upstream(model, None, batch))
    assert sum("modules_to_save" in name for name in outcomes[0].gradients) == 2
    assert outcomes[1].distance(outcomes[0]) < EXACT


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_lora_and_checkpointing(layout, reentrant):
    """LlamaFactory turns checkpointing on before PEFT wraps the model; no weight of the embedding trains then."""
    outcomes = []
    for engine in (False, True):
        model = build("qwen2_vl", **options(layout))
        if engine:
            llamafactory_checkpointing(model, reentrant)
            model.enable_input_require_grads()
        torch.manual_seed(0)
        config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
        model = get_peft_model(model, config).train()
        batch = collate(model.get_base_model(), CASES["batch"])
        calls = calls_of(model.get_base_model().model.language_model.layers[0].mlp)
        outcomes.append(by_engine(model, None, batch, layout) if engine else by_upstream(model, None, batch))
    assert len(calls) == 3  # policy, policy again, reference
    assert outcomes[1].distance(outcomes[0]) < EXACT


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen tower", "trainable tower"])
def test_the_tower_runs_once_where_nothing_in_it_trains(frozen, layout):
    """With each image once: the point of the engine. A tower that trains has a reference of its own."""
    policy, reference = build_two("qwen2_vl", frozen, **options(layout))
    batch = collate(policy, CASES["batch"])
    patches = []
    for model in (policy, reference):
        model.model.visual.register_forward_pre_hook(lambda _, args: patches.append(len(args[0])))
    by_engine(policy, reference, batch, layout)
    assert patches == [len(batch["pixel_values"])] * (1 if frozen else 2)


def test_no_graph_through_a_frozen_tower():
    """PEFT's hooks can make its output require a gradient; then it would be stored, and run backwards, for nothing."""
    model = build("qwen2_vl", **options("packed"))
    model.model.visual.requires_grad_(False)
    model.model.visual.patch_embed.register_forward_hook(lambda *args: args[-1].requires_grad_())
    attach(model, Choice("shared_prefix", "packed"))
    batch = collate(model, CASES["one image"])
    output = pair_logps(model, lay_out(batch, "packed", MEDIA_IDS), media_of(batch))
    assert output.logps.requires_grad and not output.features["image"].requires_grad


def test_same_vision_tower():
    """Features may be shared only between towers that are, and stay, equal bit for bit."""
    policy, reference = build_two("qwen2_vl")
    assert same_vision_tower(policy, reference)
    assert same_vision_tower(policy, None)
    assert not same_vision_tower(policy, build("qwen2_vl", seed=5))
    assert not same_vision_tower(policy, build_two("qwen2_vl")[1].bfloat16())
    assert not same_vision_tower(build("qwen2"), build("qwen2"))
    reference.model.visual.blocks[1].norm1.bias.data[0] += 1e-6
    assert not same_vision_tower(policy, reference)
    policy.model.visual.merger.requires_grad_(True)
    assert not same_vision_tower(policy, None)
    policy.model.visual.requires_grad_(False).blocks[0].drop = torch.nn.Dropout(0.1)
    assert not same_vision_tower(policy, None)


@pytest.mark.parametrize("targets, same", [(["q_proj"], True), (["q_proj", "qkv"], False)])
def test_an_adapter_on_the_tower_makes_it_another(targets, same):
    """Also one that does not train: without the adapter the reference sees images differently."""
    policy = with_adapter("qwen2_vl", "packed", targets).requires_grad_(False)
    assert same_vision_tower(policy, None) is same
