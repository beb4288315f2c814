"""Models of today's families, trained by LlamaFactory's templates and then asked: the same prompt, token by token."""

import json
import os
import shutil
from pathlib import Path

import pytest
import transformers
from eval_sets import metrics, predictions, write_config, write_sets
from eval_tree import python, vlmevalkit
from family_checkpoints import CHATML, checkpoint_of, text_checkpoint_of
from pairs import ALPACA, options, prompt_ids, train, write_dataset
from PIL import Image
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES


# The model, LlamaFactory's template, and what else the run sets.
RUNS = {
    "qwen3_vl": ("qwen3_vl", "qwen3_vl_nothink", {}),
    "qwen3_vl thinks": ("qwen3_vl", "qwen3_vl", {}),
    "qwen3_vl does not think": ("qwen3_vl", "qwen3_vl", {"enable_thinking": False}),
    "qwen3_5": ("qwen3_5", "qwen3_5_nothink", {}),
    "qwen3_5 does not think": ("qwen3_5", "qwen3_5", {"enable_thinking": False}),
    "qwen3_5 lora": ("qwen3_5", "qwen3_5_nothink", {"finetuning_type": "lora", "lora_rank": 4}),
    "qwen3_vl lora": ("qwen3_vl", "qwen3_vl_nothink", {"finetuning_type": "lora", "lora_rank": 4}),
    "glm4v": ("glm4v", "glm4v", {}),
    "internvl": ("internvl", "intern_vl", {}),
    "internvl in tiles": ("internvl", "intern_vl", {"crop_to_patches": True}),
    "gemma3": ("gemma3", "gemma3", {"default_system": "Be brief."}),
    "llava": ("llava", "llava", {}),
    "qwen2_vl": ("qwen2_vl", "qwen2_vl", {}),
    "gemma4": ("gemma4", "gemma4", {}),
}
# Of each, another whose pictures are written alike is above.
RARE = {
    "qwen3_vl_moe": ("qwen3_vl_moe", "qwen3_vl_nothink", {}),
    "qwen3_5_moe": ("qwen3_5_moe", "qwen3_5_nothink", {}),
    "glm4v_moe": ("glm4v_moe", "glm4_5v", {}),
    "llava_next": ("llava_next", "llava_next", {}),
    "gemma4 does not think": ("gemma4", "gemma4", {"enable_thinking": False}),
    "gemma4 lora": ("gemma4", "gemma4", {"finetuning_type": "lora", "lora_rank": 4}),
}
WATCH = ["qwen3_vl", "qwen3_5"]
WATCH += [pytest.param(f"{kind}_moe", marks=pytest.mark.long) for kind in WATCH]
SIZES = [(56, 56), (112, 84), (300, 40)]


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """Pairs to train on, and the same questions as VLMEvalKit asks them; one has two pictures, one has none."""
    folder = tmp_path_factory.mktemp("questions")
    rows, messages = [], []
    for i in range(4):
        shown = [f"{i + j}.png" for j in range(2 if i == 1 else 1)] if i < 3 else []
        for j, name in enumerate(shown):
            Image.new("RGB", SIZES[(i + j) % 3], (40 * i, 200, 90)).save(folder / name)
        text = f"Which colour is number {i}?" + "\nIn one word." * i
        answers = {"chosen": "Green.", "rejected": "Red.", "score_chosen": 2.0, "score_rejected": 1.0}
        rows.append({"instruction": "<image>" * len(shown) + text, "images": shown} | answers)
        message = [{"type": "image", "value": str(folder / name)} for name in shown]
        messages.append([*message, {"type": "text", "value": text}])
    return write_dataset(folder, rows), messages


@pytest.fixture(scope="module")
def bases(tiny_model, tmp_path_factory):
    """A random checkpoint of each kind, made when it is asked for; transformers 4 does not have all kinds."""

    class Bases(dict):
        def __missing__(self, kind):
            if kind not in CONFIG_MAPPING_NAMES:
                pytest.skip(f"transformers {transformers.__version__} has no {kind}")
            self[kind] = checkpoint_of(kind, tiny_model, folder / kind)
            return self[kind]

    folder = tmp_path_factory.mktemp("bases")
    return Bases(qwen2_vl=tiny_model)


@pytest.mark.parametrize("name", [*RUNS, *(pytest.param(name, marks=pytest.mark.long) for name in RARE)])
def test_a_trained_checkpoint_is_asked_as_it_was_trained(name, bases, questions, tmp_path):
    """And a batch of questions is answered as they are one by one; several answers to each read its prompt once."""
    kind, template, changes = (RUNS | RARE)[name]
    if kind.startswith("glm4v") and transformers.__version__.startswith("4."):
        pytest.skip("LlamaFactory 0.9.5 gives a GLM-4.1V positions that transformers 4 does not take; 4.5V: not tried")
    data, messages = questions
    run = options(bases[kind], data, tmp_path / "out", template=template, max_steps=1, cutoff_len=2048, **changes)
    train(run)
    asked = {"options": {"model_path": str(tmp_path / "out"), "max_new_tokens": 8}, "messages": messages}
    found = vlmevalkit("installed").ask("tokens", **asked)
    assert found["ids"] == prompt_ids(run | {"output_dir": str(tmp_path / "again")})
    answers = vlmevalkit("installed").ask("answers", **asked)
    assert answers["batch"] == answers["single"] and len(set(answers["single"])) > 1
    asked["options"] |= {"do_sample": True, "temperature": 1.0}
    found = vlmevalkit("installed").ask("drawn", **asked)
    assert found["together"] == found["apart"] and len(set(found["together"])) > 4
    assert 3 * found["rows"][0] == found["rows"][1] > 0


@pytest.mark.parametrize("changes", [{}, {"finetuning_type": "lora", "lora_rank": 4}], ids=["full", "lora"])
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_a_model_that_sees_no_pictures_is_asked_as_it_was_trained(kind, changes, tiny_model, tmp_path):
    """Its chat template takes no lists, as templates of such models."""
    base = text_checkpoint_of(kind, tiny_model, tmp_path / "base")
    only_text = CHATML.replace("{% if message['content'] is string %}", "").replace(
        CHATML[CHATML.index("{% else %}{% for item") : CHATML.index("<|im_end|>\n{% endfor %}")], ""
    )
    (base / "chat_template.jinja").write_text(only_text)
    questions = ["Which colour is grass?", "Name one animal, please.\nIn one word."]
    answers = {"chosen": "Green.", "rejected": "Red.", "score_chosen": 2.0, "score_rejected": 1.0}
    data = write_dataset(tmp_path, [{"instruction": text, "images": []} | answers for text in questions])
    changes = {"template": "smollm2", "max_steps": 1, "freeze_vision_tower": None} | changes
    run = {
        name: value for name, value in options(base, data, tmp_path / "out", **changes).items() if value is not None
    }
    train(run)
    messages = [[{"type": "text", "value": text}] for text in questions]
    asked = {"options": {"model_path": str(tmp_path / "out"), "max_new_tokens": 8}, "messages": messages}
    found = vlmevalkit("installed").ask("tokens", **asked)
    assert found["ids"] == prompt_ids(run | {"output_dir": str(tmp_path / "again")})
    replies = vlmevalkit("installed").ask("answers", **asked)
    assert replies["batch"] == replies["single"] and all(replies["single"])
    untrained = vlmevalkit("installed").ask("tokens", **asked | {"options": {"model_path": str(base)}})
    assert len(untrained["ids"]) == 2  # by its own template
    Image.new("RGB", (56, 56)).save(tmp_path / "seen.png")
    asked["messages"] = [[{"type": "image", "value": str(tmp_path / "seen.png")}, *messages[0]]]
    assert "not shown images, only words" in vlmevalkit("installed").ask("prompt", **asked)["error"]


REAL = os.environ.get("UNI_DPO_QWEN3_TOKENIZER")
# What a vocabulary of 150,000 may cut otherwise where a prompt is put together.
PECULIAR = [
    "这张图里有什么？",
    "\n\n\tTwo  spaces, 1,234.50 and \u00bd\r\n",
    " \u2600\ufe0f?\n",
    "<think>no</think> <tool_call>",
]


@pytest.mark.skipif(not REAL, reason="UNI_DPO_QWEN3_TOKENIZER names no folder with a tokenizer of Qwen3")
@pytest.mark.parametrize("name", [name for name in RUNS if name.startswith("qwen3") and "lora" not in name])
def test_prompts_with_a_real_vocabulary(name, tiny_model, questions, tmp_path):
    kind, template, changes = RUNS[name]
    base = checkpoint_of(kind, tiny_model, tmp_path / "base", vocabulary=Path(REAL))
    data, messages = questions
    rows = json.loads((data / "pairs.json").read_text())
    rows = [row | {"instruction": row["instruction"] + end} for row, end in zip(rows, PECULIAR, strict=True)]
    write_dataset(data, rows, "peculiar")
    messages = [
        [*message[:-1], {"type": "text", "value": message[-1]["value"] + end}]
        for message, end in zip(messages, PECULIAR, strict=True)
    ]
    run = options(base, data, tmp_path / "out", template=template, max_steps=1, cutoff_len=2048, **changes)
    train(run | {"dataset": "peculiar"})
    found = vlmevalkit("installed").ask("tokens", options={"model_path": str(tmp_path / "out")}, messages=messages)
    assert found["ids"] == prompt_ids(run | {"dataset": "peculiar", "output_dir": str(tmp_path / "again")})
    assert max(map(max, found["ids"])) > 100_000


@pytest.mark.parametrize("kind", WATCH)
def test_videos(kind, bases, video, tmp_path):
    """In a batch beside a question without any, they are answered as one by one."""
    say = {"type": "text", "value": "Which colour?"}
    messages = [[{"type": "video", "value": str(video)}, say], [say]]
    asked = {"options": {"model_path": str(bases[kind]), "max_new_tokens": 8, "fps": 1.0}, "messages": messages}
    answers = vlmevalkit("installed").ask("answers", **asked)
    assert answers["batch"] == answers["single"] and len(set(answers["single"])) == 2


@pytest.mark.parametrize("kind", WATCH)
def test_videos_are_asked_about_as_in_training(kind, bases, video, tmp_path):
    """The same frames at the same times; sizes are what either is told.

    Four of 16 frames are evenly spaced. Else `qwen_vl_utils` takes the nearest frame, and LlamaFactory the one before.
    """
    shutil.copy(video, tmp_path / "colours.mp4")
    answers = {"chosen": "Green.", "rejected": "Red.", "score_chosen": 2.0, "score_rejected": 1.0}
    row = {"instruction": "<video>Which colour?", "images": [], "videos": ["colours.mp4"]} | answers
    data = write_dataset(tmp_path, [row], columns=ALPACA | {"videos": "videos"})
    run = options(bases[kind], data, tmp_path / "out", template=(RUNS | RARE)[kind][1], max_steps=1, video_fps=1.0)
    train(run)
    message = [{"type": "video", "value": str(video)}, {"type": "text", "value": "Which colour?"}]
    limits = {"min_pixels": 28 * 28, "max_pixels": 56 * 28}  # what the processor's limit leaves of a frame
    asked = {"options": {"model_path": str(tmp_path / "out"), "fps": 1.0} | limits, "messages": [message]}
    found = vlmevalkit("installed").ask("tokens", **asked)
    assert found["ids"] == prompt_ids(run | {"output_dir": str(tmp_path / "again")})


def test_what_a_family_cannot_do_is_said(bases, video, questions):
    def said(kind, messages=questions[1], **changes):
        asked = {"model_path": str(bases[kind])} | changes
        return vlmevalkit("installed").ask("prompt", options=asked, messages=messages).get("error", "")

    assert "not shown videos, only images" in said("llava", [[{"type": "video", "value": str(video)}]])
    assert "use_vllm: the tokens of a Gemma 3's image see each other" in said("gemma3", use_vllm=True)
    assert "use_vllm: nobody tried it with models of this kind" in said("gemma4", use_vllm=True)
    assert "which flash_attention_2 leaves out" in said("gemma3", attention="flash_attention_2")
    asked = {"model_path": str(bases["glm4v"]), "use_vllm": True}
    assert "would drop the biases of attention" in vlmevalkit("installed").ask("load", options=asked)


def test_a_config_may_leave_sizes_to_transformers(bases, questions, tmp_path):
    """Gemma 3's own does not state its vocabulary."""
    folder = shutil.copytree(bases["gemma3"], tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    del config["text_config"]["vocab_size"]
    (folder / "config.json").write_text(json.dumps(config))
    asked = {"options": {"model_path": str(folder)}, "messages": questions[1]}
    assert len(vlmevalkit("installed").ask("prompt", **asked)["texts"]) == len(questions[1])


def test_layers_that_hear_are_counted_apart(bases, tmp_path):
    """A Gemma 4 may have such; one whose weights are not there would be built all the same, however deep."""
    folder = shutil.copytree(bases["gemma4"], tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["audio_config"] = {"model_type": "gemma4_audio", "num_hidden_layers": 10**9}
    (folder / "config.json").write_text(json.dumps(config))
    said = vlmevalkit("installed").ask("load", options={"model_path": str(folder)})
    assert "audio_config.num_hidden_layers is 1000000000 and not 0" in said


@pytest.mark.long
def test_images_that_see_themselves(bases, questions, tmp_path):
    """As those of large Gemma 4 do, by a word in their config."""
    folder = shutil.copytree(bases["gemma4"], tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["use_bidirectional_attention"] = "vision"
    (folder / "config.json").write_text(json.dumps(config))
    asked = {"max_new_tokens": 8, "dtype": "float32"}
    ways = [
        vlmevalkit("installed").ask("answers", options=asked | {"model_path": str(it)}, messages=questions[1])
        for it in (folder, bases["gemma4"])
    ]
    assert all(found["batch"] == found["single"] for found in ways)
    assert ways[0]["batch"] != ways[1]["batch"]


def test_thoughts_are_cut_off():
    code = "from vlmeval.vlm.qwen2_vl.uni_dpo.model import after_thoughts as cut; print([cut(it) for it in {}])"
    said = ["<think>\n\n</think>\n\nTwo.", "Two.", "<think>It is", "a</think>b</think> c"]
    done = python(vlmevalkit("installed").root, "-c", code.format(said))
    assert done.stdout.splitlines()[-1] == str(["Two.", "Two.", "<think>It is", "c"])


def test_thoughts_end_by_a_special_token(bases, questions, tmp_path):
    """As Gemma 4's do, which a tokenizer leaves out of a text: then thoughts would be scored with the answer."""
    folder = shutil.copytree(bases["gemma4"], tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    start, end = tokenizer.convert_tokens_to_ids(["<|channel>", "<channel|>"])
    thought = tokenizer.encode("Hm", add_special_tokens=False)[0]
    file = folder / "generation_config.json"
    # It writes these three first, and each once.
    wish = {"no_repeat_ngram_size": 1, "sequence_bias": [[[start], 300.0], [[thought], 200.0], [[end], 100.0]]}
    file.write_text(json.dumps(json.loads(file.read_text()) | wish))
    answers = {}
    for keep in (False, True):
        asked = {"model_path": str(folder), "max_new_tokens": 6, "keep_thoughts": keep}
        found = vlmevalkit("installed").ask("answers", options=asked, messages=questions[1][:2])
        answers[keep] = found["batch"]
        assert found["batch"] == found["single"] and all(found["batch"])
    word = tokenizer.decode([thought])
    assert all(kept.startswith(f"{word}<channel|>") for kept in answers[True])
    assert answers[False] == [kept.removeprefix(f"{word}<channel|>").lstrip() for kept in answers[True]]


@pytest.mark.parametrize("kind", ["qwen3_vl", "qwen3_5", "internvl"])
def test_both_loops_of_vlmevalkit(kind, bases, tmp_path):
    """Our runner, which batches, and run.py, which asks one by one, write the same predictions and scores."""
    kit, rows = vlmevalkit("installed"), 6
    write_sets(tmp_path / "data", rows)
    config = write_config(tmp_path / "config.json", bases[kind], **{"class": "UniDPOVLM"})
    common = ["--config", config, "--work-dir"]
    ours = kit.run(tmp_path / "data", *common, tmp_path / "ours")
    theirs = kit.loop(tmp_path / "data", *common, tmp_path / "theirs", "--judge", "exact_matching")
    assert (ours.exit, theirs.exit) == (0, 0), (ours.text[-2000:], theirs.text[-2000:])
    assert predictions(tmp_path / "ours") == predictions(tmp_path / "theirs")
    assert len(set(predictions(tmp_path / "ours")["Tiny_MCQ"])) > 1
    assert metrics(tmp_path / "ours") == metrics(tmp_path / "theirs") != {}
