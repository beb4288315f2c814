"""Our class inside real VLMEvalKit trees: found by its name, prompts as in training, batches as one by one."""

import ast
import json
import shutil
import sys
from importlib.util import find_spec

import pytest
from eval_tree import TREES, pristine, vlmevalkit
from pairs import options, prompt_ids, train, write_dataset
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_models import qwen2_5
from variants import FLAT, variant


SIZES = [(56, 56), (84, 56), (700, 330), (300, 10), (2400, 9)]
TEXT = {"type": "text", "value": "Which colour?"}
ROLES = "<|im_start|>system\n{}<|im_end|>\n<|im_start|>user\n"


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """Questions of different lengths about images of different sizes: pairs to train on, and messages."""
    folder = tmp_path_factory.mktemp("questions")
    rows, messages = [], []
    for i, size in enumerate(SIZES):
        Image.new("RGB", size, (40 * i, 200, 90)).save(folder / f"{i}.png")
        text = f"Which colour is number {i}?" + "\nAnswer in one word." * i
        scores = {"score_chosen": 2.0, "score_rejected": 1.0}
        pair = {"instruction": f"<image>{text}", "chosen": "Green.", "rejected": "Red.", "images": [f"{i}.png"]}
        rows.append(pair | scores)
        messages.append([{"type": "image", "value": str(folder / f"{i}.png")}, {"type": "text", "value": text}])
    return write_dataset(folder, rows), messages


@pytest.fixture(scope="module")
def models(tiny_model, questions, tmp_path_factory):
    """The kinds of checkpoint there are, and some that cannot be used."""
    folder = tmp_path_factory.mktemp("checkpoints")
    lora = options(tiny_model, questions[0], folder / "lora", finetuning_type="lora", lora_rank=4, learning_rate=0.1)
    train(lora | {"max_steps": 2, "cutoff_len": 2048})
    renamed = shutil.copytree(folder / "lora", folder / "renamed")
    file = renamed / "adapter_model.safetensors"
    save_file({name.replace(".layers.", ".blocks."): it for name, it in load_file(file).items()}, file)
    return {
        "full": tiny_model,
        "lora": folder / "lora",
        "renamed": renamed,
        "qwen2_5": qwen2_5(tiny_model, folder / "a path that says Qwen2-VL"),
        "flat": variant(tiny_model, folder / "flat", FLAT),
        "flat_trained": variant(tiny_model, folder / "flat_trained", FLAT, trained=True),
        "other": variant(tiny_model, folder / "other", architectures=["LlavaForConditionalGeneration"]),
        "hollow": variant(tiny_model, folder / "hollow", tie_word_embeddings=False),
    }


@pytest.fixture(scope="module", params=TREES, ids=str)
def ask(request, models, questions):
    """A function that asks about a checkpoint, by default all questions."""

    def ask(do, name, messages=questions[1], dataset=None, **changes):
        asked = {"model_path": models.get(name, name), "max_new_tokens": 12} | changes
        return vlmevalkit(request.param).ask(do, options=asked, messages=messages, dataset=dataset)

    ask.tree = request.param
    return ask


def test_all_other_models_are_still_there(ask):
    names = set(vlmevalkit(ask.tree).ask("names"))
    upstream = ast.parse((pristine(ask.tree) / "vlmeval/vlm/qwen2_vl/model.py").read_text())
    theirs = {node.name for node in upstream.body if isinstance(node, ast.ClassDef) and "Chat" in node.name}
    assert "Qwen2VLChat" in theirs and theirs | {"UniDPOVLM", "UniDPOQwen2VL"} <= names and len(names) > 100


@pytest.mark.parametrize("name", ["full", "qwen2_5"])
def test_a_batch_answers_as_one_by_one(ask, name, video):
    """Also to text alone and about videos. The folder of the Qwen2.5-VL has "Qwen2-VL" in its path."""
    found = ask("answers", name)
    assert found["batch"] == found["single"] and len(set(found["single"])) > 1
    wanted = {"full": "Qwen2VLForConditionalGeneration", "qwen2_5": "Qwen2_5_VLForConditionalGeneration"}
    assert found["class"] == wanted[name]
    clip = ask("answers", name, [[{"type": "video", "value": str(video)}, TEXT]], fps=1.0)
    assert clip["batch"] == clip["single"]
    text = ask("answers", name, [[TEXT], TEXT["value"]])
    assert text["single"] == text["batch"] and text["single"][0] == text["single"][1] != ""


def test_answers_are_as_long_as_allowed(ask):
    for short, longer in zip(*(ask("answers", "full", max_new_tokens=n)["single"] for n in (3, 12)), strict=True):
        assert len(short) < len(longer) and longer.startswith(short)


def test_prompts_are_those_of_training(ask, tiny_model, questions, tmp_path):
    """Token for token, image tokens included; padding is on the left."""
    found = ask("tokens", "full")
    assert found["ids"] == prompt_ids(options(tiny_model, questions[0], tmp_path / "out", cutoff_len=4096))
    assert 0 in found["first"] and set(found["last"]) == {1}


def test_pixel_limits(ask, tiny_model):
    image = json.loads((tiny_model / "config.json").read_text())["image_token_id"]
    plain, small, ocr = (
        [ids.count(image) for ids in ask("tokens", "full", **changes)["ids"]]
        for changes in ({}, {"max_pixels": 28 * 28 * 8}, {"dataset": "OCRBench"})
    )
    assert max(plain) > 8 >= max(small[:3])  # the processor lets thin images pass
    assert min(plain) < 100 <= min(ocr)


def test_vllm_is_asked_the_same(ask):
    """Its engine runs in `test_vllm.py` only; here, what it would be given: the same prompt, image and limits."""
    found = ask("for_vllm", "full", max_pixels=3136)
    limits = {"min_pixels": 3136, "max_pixels": 3136}
    text = ask("prompt", "full")["texts"][0]
    assert found == {"text": text, "sizes": [list(SIZES[0])], "limits": limits, "gpus": 1}


def test_vllm_chooses_among_the_same_tokens(ask, tmp_path):
    """By itself it would not read what a checkpoint forbids; what it cannot be told is refused."""

    def banned(**known):
        (tmp_path / "generation_config.json").write_text(json.dumps(known))
        return vlmevalkit(ask.tree).ask("banned", folder=tmp_path)

    assert vlmevalkit(ask.tree).ask("banned", folder=tmp_path) == []
    assert banned(suppress_tokens=[4, 7], num_beams=1, top_k=20, min_length=0, bad_words_ids=None) == [4, 7]
    said = banned(no_repeat_ngram_size=3)
    assert "generation_config.json has no_repeat_ngram_size 3, which transformers obeys and vLLM does not" in said


def test_markup(ask):
    """A flat template is kept for what was not trained; what was trained gets the roles it was trained with."""
    full, lora, flat, trained = (ask("prompt", name) for name in ("full", "lora", "flat", "flat_trained"))
    question = "<|vision_start|><|image_pad|><|vision_end|>Which colour is number 0?"
    roles = ROLES.format("You are a helpful assistant.") + question + "<|im_end|>\n<|im_start|>assistant\n"
    assert (full["markup"], full["texts"][0]) == ("template", roles)
    assert (flat["markup"], flat["texts"][0]) == ("flat", question)
    assert trained["markup"] == "roles" and full["texts"] == lora["texts"] == trained["texts"]
    system = [ask("prompt", name, system_prompt="Be brief.")["texts"] for name in ("full", "flat_trained")]
    assert system[0] == system[1] and system[0][0].startswith(ROLES.format("Be brief."))
    # A log is not the model; an adapter and a chat template are.
    assert flat["fingerprint"] == trained["fingerprint"]
    assert len({found["fingerprint"] for found in (full, lora, flat)}) == 3


ERRORS = {
    "no place": ("flat", {"markup": "template"}, "0 <|image_pad|> for 1 images"),
    "other": ("other", {}, "LlavaForConditionalGeneration"),
    "nowhere": ("/no/such/folder", {}, "no such folder"),
    "unset": ("$UNI_DPO_NOT_SET", {}, "UNI_DPO_NOT_SET=/path"),
    "no adapter": ("full", {"base_path": "/base"}, "is no adapter"),
    "a text for a number": ("full", {"max_new_tokens": "12"}, "is '12', and must be a whole number"),
    "null": ("full", {"top_p": None}, "is None, and must be a number above 0"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_say_what_is_wrong(ask, case):
    name, changes, words = ERRORS[case]
    assert words in ask("prompt", name, **changes)["error"]


def test_what_cannot_be_loaded_is_refused(ask):
    """Weights that are missing are not made up, and a vLLM that is not there is said to be missing."""
    assert "lacks weights: lm_head.weight" in ask("load", "hollow")
    assert "names that this model does not know" in ask("load", "renamed")  # or the base would answer
    kept = [ask("settings", "full", use_vllm=True, max_model_len=length) for length in (None, 1024)]
    assert kept[0] != kept[1] and ask("settings", "full")["version"]
    if find_spec("vllm") is None:
        message = ask("load", "full", use_vllm=True)
        assert f"no vLLM for {sys.executable}" in message and "setup.sh --vllm" in message


@pytest.mark.parametrize(
    "capability, installed, wanted",
    [
        ((8, 0), "", ["bfloat16", "flash_attention_2"]),
        ((8, 0), "raise ImportError('undefined symbol')", ["bfloat16", "sdpa"]),
        ((7, 5), "", ["float16", "sdpa"]),
    ],
)
def test_what_suits_a_gpu(capability, installed, wanted, tmp_path):
    """Of a kind from before bfloat16 and FlashAttention, or with a FlashAttention that does not load."""
    (tmp_path / "flash_attn.py").write_text(installed)
    found = vlmevalkit(TREES[0]).ask("device", capability=capability, folder=tmp_path)
    assert found == {"cuda": wanted, "cpu": ["float32", "sdpa"]}
