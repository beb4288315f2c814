"""Which route a model gets: the best that is exact for it, and a reason where that is not the best of all."""

import copy

import pytest
import torch
from engine_cases import CASES, TEXT_CASES, collate
from engine_models import KINDS, build
from engine_oracle import MEDIA_IDS, relative, upstream_logps
from peft import LoraConfig, get_peft_model

from llamafactory.train.uni_dpo.engine import attach, choose, lay_out, misses_attention, pair_logps
from llamafactory.train.uni_dpo.engine.families import decoder_of
from llamafactory.train.uni_dpo.errors import UniDPOError
from llamafactory.train.uni_dpo.training.forward import PairForward


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_route(kind):
    """Also for a PEFT model; attention that knows nothing but masks takes those, for policy and reference alike."""
    model, eager = build(kind), build(kind, attention="eager")
    adapted = get_peft_model(build(kind), LoraConfig(r=2, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM"))
    for models, layout in (
        ([model], "packed"),
        ([adapted], "packed"),
        ([eager], "masked"),
        ([model, eager], "masked"),
    ):
        choice = choose(*models)
        if layout == "masked" and choice.route == "response_only":
            assert "eager attention beside layers that carry a state" in choice.obstacle
        else:
            assert (choice.route, choice.layout, choice.obstacle) == ("shared_prefix", layout, "")


def changed(**config):
    model = build("qwen2")
    for name, value in config.items():
        setattr(model.config, name, value)
    return model


def foreign(model):
    """Give it a class that came with a checkpoint."""
    model.__class__ = type("RemoteModel", (type(model),), {"__module__": "transformers_modules.remote"})
    return model


LESS = {
    "a sliding window": (lambda: build("mistral", sliding_window=16), "response_only", "sliding-window"),
    "a layer with one": (
        lambda: changed(layer_types=["full_attention", "sliding_attention"]),
        "response_only",
        "sliding-window",
    ),
    "dropout": (lambda: build("qwen2_vl", attention_dropout=0.1), "response_only", "dropout in attention"),
    "other attention": (lambda: changed(_attn_implementation="flex_attention"), "response_only", "`flex_attention`"),
    "layers of a type that nobody knows": (
        lambda: changed(layer_types=["full_attention", "linear_attention"]),
        "response_only",
        "layers of type linear_attention",
    ),
    "other kind of model": (lambda: changed(model_type="new"), "response_only", "models of type 'new'"),
    "other code": (lambda: foreign(changed(model_type="new")), "upstream", "not transformers' own"),
}


@pytest.mark.parametrize("case", LESS)
def test_less_where_more_would_not_be_exact(case):
    """A model's own forward would take a window or drop something that our attention does not know of.

    Policy and reference take the weaker route: rounding differs, and with two of them margins would not start at zero.
    """
    make, route, reason = LESS[case]
    for models in ([make()], [make(), build("qwen2")], [build("qwen2"), make()]):
        choice = choose(*models)
        assert choice.route == route and reason in choice.obstacle
    assert choose(make()).layout == {"response_only": "rows", "upstream": None}[route]


@pytest.mark.parametrize("use", [False, True])
@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl", "qwen2"])
def test_a_window_that_a_published_config_names_and_does_not_use(kind, use):
    """Those of Qwen2-VL have `sliding_window: 32768` beside `use_sliding_window: false`."""
    window = {"sliding_window": 32768, "use_sliding_window": use, "max_window_layers": 1}
    assert choose(build(kind, **window)).route == ("response_only" if use else "shared_prefix")


def test_a_head_of_another_name():
    """The engine scores by `lm_head`; a model whose logits come from elsewhere runs as it is, or is left alone."""
    model = build("qwen2")
    model.get_output_embeddings = lambda: torch.nn.Linear(2, 2)
    assert choose(model).route == "response_only"
    model.get_output_embeddings = lambda: None
    assert choose(model).route == "upstream"


def test_an_output_layer_that_does_not_run_is_refused():
    """Nobody could tell then which logits belong to which token."""
    model, batch = changed(model_type="new"), collate(build("qwen2"), TEXT_CASES["edges"])
    model.get_output_embeddings = lambda: torch.nn.Linear(2, 2)
    attach(model, choose(model))
    with pytest.raises(ValueError, match="ran 0 times in a forward.*`pref_forward: upstream`"):
        pair_logps(model, lay_out(batch, "rows", MEDIA_IDS))
    assert model(**{name: batch[name] for name in ("input_ids", "attention_mask")}).logits.dim() == 3


def test_kernels_that_no_run_has_tried_have_to_be_asked_for():
    """Those of flash-linear-attention run on a GPU only."""
    model = build("qwen3_5")
    model.model.language_model.layers[0].linear_attn.chunk_gated_delta_rule = lambda *args, **kwargs: None
    choice = choose(model)
    assert choice.route == "response_only" and "flash-linear-attention is not verified" in choice.obstacle
    assert choose(model, unverified=True).route == "shared_prefix"


@pytest.mark.parametrize("case", ["a sliding window", "other attention", "other kind of model"])
def test_the_weaker_route_is_exact_too(case):
    """With a window shorter than the sequences, say."""
    model = LESS["a sliding window"][0]() if case == "a sliding window" else build("qwen2")
    model.config.model_type = LESS[case][0]().config.model_type
    stock, choice = copy.deepcopy(model), choose(LESS[case][0]())
    batch = collate(model, TEXT_CASES["batch"])
    attach(model, choice)
    with torch.no_grad():
        ours = pair_logps(model, lay_out(batch, choice.layout, MEDIA_IDS)).logps
        assert relative(ours, upstream_logps(stock, batch)[0]) < 1e-5


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_call_without_a_layout_is_the_models_own(attention):
    """Evaluation, generation and whatever else knows nothing of pairs, bit for bit."""
    model = build("qwen2_vl", attention=attention).eval()
    stock, choice = copy.deepcopy(model), choose(model)
    attach(model, choice)
    attach(model, choice)  # a second time changes nothing
    batch = collate(model, CASES["batch"])
    with torch.no_grad():
        assert torch.equal(upstream_logps(model, batch)[0], upstream_logps(stock, batch)[0])
        prompt = {"input_ids": batch["input_ids"][:1, :8], "attention_mask": batch["attention_mask"][:1, :8]}
        options = {"max_new_tokens": 4, "do_sample": False}
        assert torch.equal(model.generate(**prompt, **options), stock.generate(**prompt, **options))


def test_upstream_leaves_a_model_as_it_is():
    model = LESS["other code"][0]()
    forward, attention = model.forward, decoder_of(model).config._attn_implementation
    attach(model, choose(model))
    assert model.forward == forward and decoder_of(model).config._attn_implementation == attention


def test_flash_attention_that_hides_an_image_from_itself_is_told():
    """No forward of such a model would be right, upstream's neither."""
    model = build("gemma3", torch.float32)
    assert not misses_attention(model)
    model.config.get_text_config()._attn_implementation = "flash_attention_2"
    assert misses_attention(model)
    with pytest.raises(UniDPOError, match="`flash_attn: fa2` is not possible with models of type 'gemma3'.*sdpa"):
        PairForward(model, None, "auto")
