"""The adapter inside real VLMEvalKit trees: found by name, prompts as in training, batches as one by one."""

import json
import shutil
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location

import pytest
from eval_tree import TREES, answer_of, overlaid, pristine
from pairs import ROOT, options, train, write_dataset
from PIL import Image
from tiny_models import qwen2_5


FLAT = (
    "{% for item in messages %}{% if item['type'] == 'image' or 'image' in item %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in item %}{{ item['text'] }}{% endif %}{% endfor %}"
)
SIZES = [(56, 56), (84, 56), (700, 330), (300, 10), (2400, 9)]


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """Questions of different lengths about images of different sizes, as pairs to train on."""
    folder = tmp_path_factory.mktemp("questions")
    rows = []
    for i, size in enumerate(SIZES):
        Image.new("RGB", size, (40 * i, 200, 90)).save(folder / f"{i}.png")
        text = f"Which colour is number {i}?" + "\nAnswer in one word." * i
        scores = {"score_chosen": 2.0, "score_rejected": 1.0}
        pair = {"instruction": f"<image>{text}", "chosen": "Green.", "rejected": "Red.", "images": [f"{i}.png"]}
        rows.append(pair | scores)
    return write_dataset(folder, rows), rows


@pytest.fixture(scope="module")
def messages(questions):
    folder, rows = questions
    return [
        [
            {"type": "image", "value": str(folder / row["images"][0])},
            {"type": "text", "value": row["instruction"].removeprefix("<image>")},
        ]
        for row in rows
    ]


def variant(model, folder, template=None, trained=False, **config):
    """Copy a checkpoint, with another chat template, traces of training, or changes to its config."""
    shutil.copytree(model, folder)
    if template:
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
        tokenizer = json.loads((folder / "tokenizer_config.json").read_text()) | {"chat_template": template}
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    if trained:
        (folder / "trainer_state.json").write_text("{}")
    changed = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(changed))
    return folder


@pytest.fixture(scope="module")
def checkpoints(tiny_model, questions, tmp_path_factory):
    """The kinds of checkpoint there are, and some that cannot be used."""
    folder = tmp_path_factory.mktemp("checkpoints")
    lora = options(tiny_model, questions[0], folder / "lora", finetuning_type="lora", lora_rank=4, learning_rate=0.1)
    train(lora | {"max_steps": 2, "cutoff_len": 2048})
    kinds = {
        "full": tiny_model,
        "lora": folder / "lora",
        "qwen2_5": qwen2_5(tiny_model, folder / "a path that says Qwen2-VL"),
        "flat": variant(tiny_model, folder / "flat", FLAT),
        "flat_trained": variant(tiny_model, folder / "flat_trained", FLAT, trained=True),
        "other": variant(tiny_model, folder / "other", architectures=["LlavaForConditionalGeneration"]),
        "hollow": variant(tiny_model, folder / "hollow", tie_word_embeddings=False),
    }
    return {name: str(path) for name, path in kinds.items()}


@pytest.fixture(scope="module", params=TREES, ids=str)
def seen(request, checkpoints, messages, video, tmp_path_factory):
    """What the adapter does in one VLMEvalKit, all asked in one process because importing it takes long."""
    folder = tmp_path_factory.mktemp("probe")
    plain = {"messages": messages}
    text = {"type": "text", "value": "Which colour?"}

    def model(name, **changes):
        return {"options": {"model_path": checkpoints.get(name, name), "max_new_tokens": 12} | changes}

    requests = {
        "names": {"do": "names"},
        "full": {"do": "answers"} | plain | model("full"),
        "qwen2_5": {"do": "answers"} | plain | model("qwen2_5"),
        "short": {"do": "answers"} | plain | model("full", max_new_tokens=3),
        "text": {"do": "answers", "messages": [[text], "Which colour?"]} | model("full"),
        "video": {"do": "answers", "messages": [[{"type": "video", "value": str(video)}, text]]}
        | model("full", fps=1.0),
        "video_2_5": {"do": "answers", "messages": [[{"type": "video", "value": str(video)}, text]]}
        | model("qwen2_5"),
        "tokens": {"do": "tokens"} | plain | model("full"),
        "small": {"do": "tokens"} | plain | model("full", max_pixels=28 * 28 * 8),
        "ocr": {"do": "tokens", "dataset": "OCRBench"} | plain | model("full"),
        "vllm": {"do": "for_vllm"} | plain | model("full", max_pixels=3136),
        "merged": {"do": "merged"} | plain | model("lora"),
        "hollow": {"do": "load"} | model("hollow"),
        "no_vllm": {"do": "load"} | model("full", use_vllm=True),
    }
    prompts = {
        "prompt": model("full"),
        "prompt_lora": model("lora"),
        "prompt_flat": model("flat"),
        "prompt_trained": model("flat_trained"),
        "prompt_system": model("full", system_prompt="Be brief."),
        "prompt_system_roles": model("flat_trained", system_prompt="Be brief."),
        "no_place": model("flat", markup="template"),
        "other": model("other"),
        "nowhere": model(str(folder / "nowhere")),
        "unset": model("$UNI_DPO_NOT_SET"),
        "no_adapter": model("full", base_path=checkpoints["full"]),
    }
    requests |= {name: {"do": "prompt"} | plain | wish for name, wish in prompts.items()}
    tree = overlaid(request.param, folder / "tree")
    found = answer_of(tree, "eval_probe.py", requests, folder)
    assert found["vlmeval"] == str(tree / "vlmeval")
    found["pristine"] = answer_of(pristine(request.param), "eval_probe.py", {"names": {"do": "names"}}, folder)[
        "names"
    ]
    return found


def test_all_other_models_are_still_there(seen):
    assert len(seen["pristine"]) > 100
    assert set(seen["names"]) - {"UniDPOQwen2VL"} == set(seen["pristine"]) - {"UniDPOQwen2VL"}
    assert "UniDPOQwen2VL" in seen["names"]


@pytest.mark.parametrize("name", ["full", "qwen2_5"])
def test_a_batch_answers_as_one_by_one(seen, name):
    assert seen[name]["batch"] == seen[name]["single"]
    assert len(set(seen[name]["single"])) > 1


def test_architecture_is_read_from_the_config(seen):
    """The folder of the Qwen2.5-VL has "Qwen2-VL" in its path."""
    assert seen["full"]["class"] == "Qwen2VLForConditionalGeneration"
    assert seen["qwen2_5"]["class"] == "Qwen2_5_VLForConditionalGeneration"


def test_answers_are_as_long_as_allowed(seen):
    for short, longer in zip(seen["short"]["single"], seen["full"]["single"], strict=True):
        assert len(short) < len(longer)
        assert longer.startswith(short)


def test_text_alone_and_videos(seen):
    assert seen["text"]["single"] == seen["text"]["batch"]
    assert seen["text"]["single"][0] == seen["text"]["single"][1] != ""
    assert seen["video"]["single"] == seen["video"]["batch"]
    assert seen["video_2_5"]["single"] == seen["video_2_5"]["batch"]


def training_ids(model, data, tmp_path):
    """Prompt token ids as LlamaFactory trains them, from its own data pipeline."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    run = options(model, data, tmp_path / "out", cutoff_len=4096)
    model_args, data_args, training_args, *_ = get_train_args(run)
    loaded = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(loaded["tokenizer"], data_args)
    rows = get_dataset(template, model_args, data_args, training_args, stage="rm", **loaded)["train_dataset"]
    return [
        [i for i, label in zip(row["chosen_input_ids"], row["chosen_labels"], strict=True) if label == -100]
        for row in rows
    ]


def test_prompts_are_those_of_training(seen, tiny_model, questions, tmp_path):
    """Token for token, image tokens included."""
    assert seen["tokens"]["ids"] == training_ids(tiny_model, questions[0], tmp_path)
    assert 0 in seen["tokens"]["first"]
    assert set(seen["tokens"]["last"]) == {1}


def test_vllm_is_asked_the_same(seen):
    """Its engine runs in `test_vllm.py` only; here, what it would be given: the same prompt, image and limits."""
    assert seen["vllm"]["text"] == seen["prompt"]["texts"][0]
    assert seen["vllm"]["sizes"] == [list(SIZES[0])]
    assert seen["vllm"]["limits"] == {"min_pixels": 3136, "max_pixels": 3136}
    assert seen["vllm"]["gpus"] == 1


def test_pixel_limits(seen, tiny_model):
    image = json.loads((tiny_model / "config.json").read_text())["image_token_id"]

    def counts(name):
        return [ids.count(image) for ids in seen[name]["ids"]]

    assert max(counts("tokens")) > 8
    assert max(counts("small")[:3]) <= 8  # the processor lets thin images pass
    assert min(counts("tokens")) < 100 <= min(counts("ocr"))


def test_markup(seen):
    """A flat template is kept for what was not trained; what was trained gets the roles it was trained with."""
    assert seen["prompt"]["markup"] == "template"
    assert seen["prompt"]["texts"][0] == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|>Which colour is number 0?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert seen["prompt_lora"]["texts"] == seen["prompt"]["texts"]
    assert seen["prompt_flat"]["markup"] == "flat"
    assert seen["prompt_flat"]["texts"][0] == "<|vision_start|><|image_pad|><|vision_end|>Which colour is number 0?"
    assert seen["prompt_trained"]["markup"] == "roles"
    assert seen["prompt_trained"]["texts"] == seen["prompt"]["texts"]


def test_system_prompt(seen):
    wanted = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
    assert seen["prompt_system"]["texts"][0].startswith(wanted)
    assert seen["prompt_system_roles"]["texts"] == seen["prompt_system"]["texts"]


def test_an_adapter_is_merged_into_its_base(seen):
    assert seen["merged"]["to_peft"] < 1e-4 < 1e-2 < seen["merged"]["to_base"]


def test_fingerprints_tell_checkpoints_apart(seen):
    prompts = [seen[name]["fingerprint"] for name in ("prompt", "prompt_lora", "prompt_flat")]
    assert len(set(prompts)) == 3
    assert seen["prompt_flat"]["fingerprint"] == seen["prompt_trained"]["fingerprint"]  # a log is not the model
    assert seen["prompt"]["fingerprint"] == seen["prompt_system"]["fingerprint"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_place", "0 <|image_pad|> for 1 images"),
        ("other", "LlavaForConditionalGeneration"),
        ("nowhere", "no such folder"),
        ("unset", "UNI_DPO_NOT_SET=/path"),
        ("no_adapter", "is no adapter"),
    ],
)
def test_errors_say_what_is_wrong(seen, name, words):
    assert words in seen[name]["error"]
    assert seen[name]["kind"] in ("CheckpointError", "PromptError")


def test_weights_that_are_missing_are_not_made_up(seen):
    assert "lm_head.weight" in seen["hollow"]


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_vllm_that_is_not_there_is_told(seen):
    assert f"no vLLM for {sys.executable}" in seen["no_vllm"] and "setup.sh --vllm" in seen["no_vllm"]


@pytest.mark.parametrize(
    "capability, installed, dtype, attention",
    [
        ((8, 0), "", "bfloat16", "flash_attention_2"),
        ((8, 0), "raise ImportError('undefined symbol')", "bfloat16", "sdpa"),
        ((7, 5), "", "float16", "sdpa"),
    ],
)
def test_what_suits_a_gpu(capability, installed, dtype, attention, tmp_path, monkeypatch):
    """Of a kind from before bfloat16 and FlashAttention, or with a FlashAttention that does not load."""
    (tmp_path / "flash_attn.py").write_text(installed)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flash_attn", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: capability)
    spec = spec_from_file_location("device", ROOT / "VLMEvalKit/vlmeval/vlm/qwen2_vl/uni_dpo/device.py")
    device = module_from_spec(spec)
    spec.loader.exec_module(device)
    monkeypatch.setattr(device, "is_flash_attn_2_available", lambda: True)
    assert (device.default_dtype("cuda"), device.default_attention("cuda", dtype)) == (dtype, attention)
    assert (device.default_dtype("cpu"), device.default_attention("cpu", "float32")) == ("float32", "sdpa")
