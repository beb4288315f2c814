"""What checkpoints carry of their training, on every way from training to evaluation: prompts, chains, output layers.

The base has a flat chat template, as the base Qwen2-VL-2B has, which renders a message with a role to nothing.
"""

import functools
import json
import shutil

import pytest
import torch
from eval_tree import vlmevalkit
from pairs import make_rows, options, train, write_dataset
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor
from variants import FLAT, variant

from llamafactory.data.template import TEMPLATES
from llamafactory.train import tuner


IDS = list(range(40, 64))
PROMPT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n"
    "<|im_start|>assistant\n"
)
TRACES = ("training_args.bin", "trainer_state.json", "trainer_log.jsonl", "README.md", "Modelfile")
TRACES += ("all_results.json", "train_results.json", "uni_dpo_training.png")
LORA = {"finetuning_type": "lora", "lora_rank": 4, "learning_rate": 0.05, "max_steps": 2}


def export(model, target, adapters=None, upstream=False):
    """Export with LlamaFactory, with the overlay or as upstream does."""
    with pytest.MonkeyPatch.context() as patch:
        if upstream:
            for name in ("load_model", "load_tokenizer"):
                patch.setattr(tuner, name, getattr(tuner, name).__wrapped__)
        wish = {"model_name_or_path": str(model), "template": "qwen2_vl", "export_dir": str(target)}
        wish |= {"adapter_name_or_path": ",".join(map(str, adapters))} if adapters else {}
        tuner.export_model(wish | {"infer_dtype": "float32"})
    return target


def without_traces(folder, target, base=None):
    """Copy what a model needs; with `base`, its tokenizer and chat template in place of the checkpoint's."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns(*TRACES))
    if base is not None:
        (target / "chat_template.jinja").unlink()
        for name in ("tokenizer_config.json", "chat_template.json", "preprocessor_config.json"):
            shutil.copy(base / name, target)
    return target


@pytest.fixture(scope="module")
def made(tiny_model, tmp_path_factory):
    """Checkpoints of several trainings, and what became of them."""
    folder = tmp_path_factory.mktemp("made")
    data = write_dataset(folder / "data", make_rows(folder / "data", 8))
    base = variant(tiny_model, folder / "base", FLAT)
    found = {"base": base}

    def trained(name, **changes):
        train(options(base, data, folder / name, **changes))
        found[name] = folder / name

    trained("full", max_steps=2)
    with pytest.MonkeyPatch.context() as patch:  # the option changes LlamaFactory's template for the whole process
        patch.setattr(TEMPLATES["qwen2_vl"], "default_system", TEMPLATES["qwen2_vl"].default_system)
        trained("averaged", max_steps=1, pref_loss="sigmoid", dpo_average_log_prob=True, default_system="Be brief.")
    trained("sft", pref_loss="sigmoid", **LORA)  # by upstream's trainer
    trained("chain", adapter_name_or_path=str(folder / "sft"), create_new_adapter=True, **LORA)
    trained("apart", additional_target="embed_tokens,lm_head", **LORA)
    trained("head", **LORA | {"lora_target": "q_proj,lm_head"})
    found["full_exported"] = export(folder / "full", folder / "full_exported")
    found["full_copied"] = without_traces(folder / "full", folder / "full_copied")
    found["full_flat"] = without_traces(folder / "full", folder / "full_flat", base)
    found["full_by_upstream"] = export(folder / "full", folder / "full_by_upstream", upstream=True)
    chain, apart = [folder / "sft", folder / "chain"], [folder / "apart"]
    found["chain_exported"] = export(base, folder / "chain_exported", chain)
    found["chain_copied"] = without_traces(folder / "chain_exported", folder / "chain_copied")
    found["chain_by_upstream"] = export(base, folder / "chain_by_upstream", chain, upstream=True)
    found["sft_exported"] = export(base, folder / "sft_exported", chain[:1])
    found["apart_exported"] = export(base, folder / "apart_exported", apart)
    found["apart_by_upstream"] = export(base, folder / "apart_by_upstream", apart, upstream=True)
    found["unmarked"] = without_traces(folder / "chain_by_upstream", folder / "unmarked")
    found["moved"] = shutil.copytree(folder / "chain", folder / "elsewhere" / "moved")
    found["together"] = shutil.copytree(folder / "chain", folder / "together" / "chain")
    shutil.copytree(folder / "sft", folder / "together" / "sft")
    for name in ("moved", "together"):  # as after a move to another machine
        config = json.loads((found[name] / "tokenizer_config.json").read_text())
        config["uni_dpo"]["adapters"][0]["path"] = "/no/such/place/sft"
        (found[name] / "tokenizer_config.json").write_text(json.dumps(config))
    found["changed"] = shutil.copytree(folder / "together", folder / "changed") / "chain"
    shutil.copy(folder / "chain" / "adapter_model.safetensors", folder / "changed" / "sft")
    return found


@pytest.fixture(scope="module")
def ask(made, tmp_path_factory):
    """A function that asks our class in VLMEvalKit about one of them."""
    folder = tmp_path_factory.mktemp("asked")
    picture = make_rows(folder, 1)[0]["images"][0]
    image = {"type": "image", "value": str(folder / picture)}
    messages = [[image, {"type": "text", "value": text}] for text in ("What is it?", "Which colour?", "Is it red?")]

    @functools.cache
    def ask(do, name, **changes):
        options = {"model_path": str(made[name]), "max_new_tokens": 8, "dtype": "float32"} | changes
        return vlmevalkit("installed").ask(do, messages=messages, ids=IDS, folder=made[name], options=options)

    return ask


def test_record(ask, made):
    """A run with our trainer writes one, upstream's does not, and an export keeps it."""
    full, chain = ask("record", "full"), ask("record", "chain")
    assert full == {"template": "qwen2_vl", "prompt": PROMPT, "pref_loss": "uni_dpo", "adapters": [], "images": {}}
    assert [adapter.pop("path") for adapter in chain["adapters"]] == [str(made["sft"])]
    assert len(chain["adapters"][0]["digest"]) == 64 and chain | {"adapters": [], "images": {}} == full
    assert ask("record", "chain_exported") == full
    assert ask("record", "sft") is ask("record", "base") is None


@pytest.mark.parametrize("name", ["full", "chain_exported"])
def test_the_saved_chat_template_is_that_of_training(made, name):
    """So every tool writes the prompts of training: with a system prompt, several turns, pictures, plain texts."""
    processor = AutoProcessor.from_pretrained(made[name])
    asking = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which?"}]}

    def written(*messages):
        return processor.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)

    question = "<|vision_start|><|image_pad|><|vision_end|>Which?"
    assert written(asking) == PROMPT.format(question=question)
    assert processor.tokenizer.apply_chat_template([asking], tokenize=False) == PROMPT.format(question=question)
    said = {"role": "assistant", "content": "This."}
    again = {"role": "user", "content": "Sure?"}
    rest = "This.<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n"
    assert written(asking, said, again) == PROMPT.format(question=question) + rest
    system = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    assert written(system, again).startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nSure?")
    assert written({"role": "system", "content": ""}, again).startswith("<|im_start|>user\nSure?")


def test_a_template_with_roles_stays(tiny_model, pair_data, tmp_path):
    """To the byte: an instruct model's knows tools and more."""
    train(options(tiny_model, pair_data, tmp_path, max_steps=1))
    before = json.loads((tiny_model / "tokenizer_config.json").read_text()).get("chat_template")
    before = before or json.loads((tiny_model / "chat_template.json").read_text())["chat_template"]
    assert (tmp_path / "chat_template.jinja").read_text() == before


def test_models_answer_alike_on_every_way(ask):
    """Exported, copied, with the base's chat template, merged by upstream; and other models answer otherwise."""
    ways = {
        "full": ("full_exported", "full_copied", "full_flat", "full_by_upstream"),
        "chain": ("chain_exported", "chain_copied", "chain_by_upstream", "together"),
    }
    for name, same in ways.items():
        assert {other: ask("answers", other)["single"] == ask("answers", name)["single"] for other in same} == {
            other: True for other in same
        }
    assert len({str(ask("answers", name)["single"]) for name in ("base", *ways)}) == 3


def test_markup_and_its_reason(ask):
    reasons = {
        "base": ("flat", "nothing shows a training"),
        "full": ("template", "training recorded"),
        "full_flat": ("roles", "training recorded"),
        "chain_by_upstream": ("roles", "Modelfile has"),
        "sft_exported": ("roles", "Modelfile has"),
        "sft": ("roles", "training_args.bin"),
    }
    for name, (markup, reason) in reasons.items():
        found = ask("prompt", name)
        assert found["markup"] == markup and reason in found["said"], (name, found["said"])
    same = {"full_exported", "chain", "chain_exported", *reasons} - {"base"}
    assert len({str(ask("prompt", name)["texts"]) for name in same}) == 1


def test_a_guess_is_loud(ask):
    """Merged by upstream and copied without its Modelfile, nothing tells of the training but the version."""
    found = ask("prompt", "unmarked")
    assert found["markup"] == "flat" and "WARNING" in found["said"] and '"markup": "roles"' in found["said"]
    assert "WARNING" not in ask("prompt", "full")["said"]


def test_the_system_prompt_of_training(ask):
    """`default_system` of the training is asked with; an option of the evaluation replaces it."""
    assert ask("prompt", "averaged")["texts"][0].startswith("<|im_start|>system\nBe brief.<|im_end|>\n")
    kind = ask("prompt", "full_flat", system_prompt="Be kind.")["texts"][0]
    assert kind.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n")


def test_a_chain_that_is_not_whole_is_refused(ask, made):
    moved, changed = ask("prompt", "moved")["error"], ask("prompt", "changed")["error"]
    assert "/no/such/place/sft" in moved and str(made["moved"].parent) in moved and "export" in moved
    assert "have changed since" in changed


@pytest.fixture(scope="module")
def trained(made):
    """Logits by PEFT itself, the last adapter unmerged, as in training."""
    ids, found = torch.tensor(IDS)[None], {}
    for name, chain in {"chain": ["sft", "chain"], "apart": ["apart"], "head": ["head"]}.items():
        model = AutoModelForImageTextToText.from_pretrained(made["base"])
        for earlier in chain[:-1]:
            model = PeftModel.from_pretrained(model, made[earlier]).merge_and_unload()
        with torch.no_grad():
            found[name] = PeftModel.from_pretrained(model, made[chain[-1]]).eval()(input_ids=ids).logits[0]
    return found


@pytest.mark.parametrize("name", ["chain", "chain_exported", "apart", "apart_exported", "apart_by_upstream", "head"])
def test_logits_are_those_of_training(ask, trained, name):
    """Adapters and exports; also as merged for vLLM, whose config says that the output layer is its own."""
    wanted, found = trained[name.partition("_")[0]], ask("logits", name)
    for way in {"backend", "merged"} & set(found):
        torch.testing.assert_close(torch.tensor(found[way]), wanted, rtol=0, atol=1e-4)
    if name in ("apart", "head"):
        assert True not in found["tied"]


def test_exports_say_whether_the_output_layer_is_its_own(made):
    def tied(name):
        config = json.loads((made[name] / "config.json").read_text())
        return True in [part.get("tie_word_embeddings") for part in (config, config["text_config"])]

    assert not tied("apart_exported")
    assert tied("apart_by_upstream") and tied("chain_exported")


def test_an_output_layer_that_would_be_dropped_is_no_start(made, pair_data, tmp_path):
    with pytest.raises(ValueError, match="tie_word_embeddings: true"):
        train(options(made["apart_by_upstream"], pair_data, tmp_path, max_steps=1))


def test_upstreams_exports_stay_upstreams(made, tmp_path):
    """Of what no training of ours has made, file by file."""
    ours, theirs = made["sft_exported"], export(made["base"], tmp_path / "x", [made["sft"]], upstream=True)
    assert [path.name for path in sorted(ours.iterdir())] == [path.name for path in sorted(theirs.iterdir())]
    assert all((theirs / path.name).read_bytes() == path.read_bytes() for path in ours.iterdir())


def test_an_export_lacks_no_part_of_a_chain(made, tmp_path):
    with pytest.raises(ValueError, match=f"adapter_name_or_path: {made['sft']},{made['chain']}"):
        export(made["base"], tmp_path / "x", [made["chain"]])
    assert not (tmp_path / "x").exists()
