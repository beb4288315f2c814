"""Scores from models on this machine, against the same models run on one answer at a time without any of our code."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from family_checkpoints import PICTURES, checkpoint_of
from pairs import ROOT, as_sharegpt, options, train, write_dataset
from PIL import Image
from reward_models import image_classifier, text_classifier
from safetensors.torch import save_file
from score_runs import read, score, unscored, write
from tiny_models import adapter, dropped_head, text_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSequenceClassification,
    AutoProcessor,
    AutoTokenizer,
)

from llamafactory.train.uni_dpo.models import portable
from pair_data import DataError
from pair_data.score.checkpoints import PORTABLE, Checkpoint
from pair_data.score.kinds import YesNo
from pair_data.score.pictures import Pictures
from pair_data.score.vllm_scorers import with_vllm


DEMO = ROOT / "data" / "demo" / "checkpoint"
RUBRIC = "Asked: {question}\nSaid: {answer}\nGood?"
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
FLAT = "{% for item in messages %}{% if 'text' in item %}{{ item['text'] }}{% endif %}{% endfor %}"
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pairs with no, one and two images, some of them with earlier turns or a system prompt, and a rubric."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = unscored(folder, 12)
    rows[3] |= {"history": [["Who are you?", "A program."], ["Since when?", "Always."]]}
    rows[4] |= {"system": "Be brief.", "chosen": "Yes. " * 60}
    write(folder / "all.jsonl", rows)
    write(folder / "text.jsonl", rows[::3])
    (folder / "rubric.txt").write_text(RUBRIC)
    return folder


def change(file, **changes):
    """Change a JSON file; None takes an entry out."""
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def both(folder, data, *arguments):
    """Score pairs and return the scores, chosen and rejected by turns."""
    out = folder / "out.jsonl"
    score(folder / data, "-o", out, "--overwrite", *arguments)
    return [row[f"score_{side}"] for row in read(out) for side in ("chosen", "rejected")]


def laid_out(row, answer, image=IMAGE, default=SYSTEM):
    """A row's dialogue in the words of Qwen2-VL's template."""
    turns = [turn for pair in row.get("history", []) for turn in zip(("user", "assistant"), pair, strict=True)]
    turns += [("user", row["instruction"].replace("<image>", image)), ("assistant", answer)]
    start = f"<|im_start|>system\n{row['system']}<|im_end|>\n" if row.get("system") else default
    return start + "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)


def asked(row, answer):
    """What a judge reads of a row, by the rubric above."""
    question = row["instruction"].replace("<image>", IMAGE)
    if row.get("history"):
        earlier = "User: Who are you?\n\nAssistant: A program.\n\nUser: Since when?\n\nAssistant: Always."
        question = f"{earlier}\n\nUser: {question}"
    if row.get("system"):
        question = f"System: {row['system']}\n\nUser: {question}"
    text = RUBRIC.replace("{question}", question).replace("{answer}", answer)
    return f"{SYSTEM}<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


def one_by_one(folder, data, processor, text, read_output):
    """Run a model on one text at a time: `text` of row and answer, `read_output` of the inputs."""
    scores = []
    for row in read(folder / data):
        images = [Image.open(folder / name).convert("RGB") for name in row["images"]]
        for answer in (row["chosen"], row["rejected"]):
            media = {"images": images} if images else {}
            inputs = processor(text=[text(row, answer)], return_tensors="pt", add_special_tokens=False, **media)
            with torch.no_grad():
                scores.append(float(read_output(inputs)))
    return scores


def yes_or_no(model, tokenizer):
    """Log p(Yes) - log p(No), each the sum over all of the vocabulary that reads so."""
    words = [tokenizer.decode([token]).strip().lower() for token in range(len(tokenizer))]
    yes, no = ([token for token, word in enumerate(words) if word == wanted] for wanted in ("yes", "no"))

    def read_output(inputs):
        probabilities = model(**inputs).logits[0, -1].double().softmax(-1)
        return probabilities[yes].sum().log() - probabilities[no].sum().log()

    return read_output


def test_judge_that_sees(folder):
    """Padding, order, images or turns of one request reach another, or other tokens than Yes and No count."""
    processor = AutoProcessor.from_pretrained(DEMO, use_fast=True)
    model = AutoModelForImageTextToText.from_pretrained(DEMO, dtype=torch.float32)
    expected = one_by_one(folder, "all.jsonl", processor, asked, yes_or_no(model, processor.tokenizer))
    given = ("--model", DEMO, "--kind", "yes-no", "--rubric", folder / "rubric.txt")
    for batch in (1, 5):
        found = both(folder, "all.jsonl", *given, "--batch-size", batch, "--cache", folder / f"{batch}.sqlite")
        assert found == pytest.approx(expected, abs=2e-4)
    assert len({round(value, 2) for value in found}) > 12


@pytest.mark.parametrize("kind", ["qwen3_vl", "qwen3_5", "internvl", "gemma3"])
def test_judges_and_reward_models_of_today(tmp_path, folder, kind):
    """Each family has positions, tiles or states of its own, which padding or another request's images may disturb.

    Five at a time, and without any of our code one by one; the value head is one that is written here.
    """
    model = checkpoint_of(kind, DEMO, tmp_path / kind)
    write(folder / "few.jsonl", read(folder / "all.jsonl")[:6])
    plain = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32).eval()
    processor, size = AutoProcessor.from_pretrained(model), plain.config.get_text_config().hidden_size
    weight, bias = torch.linspace(-1, 1, size)[None], torch.tensor([0.5])
    save_file({"v_head.summary.weight": weight, "v_head.summary.bias": bias}, model / "value_head.safetensors")

    def value(inputs):
        return plain.model(**inputs).last_hidden_state[0, -1] @ weight[0] + bias[0]

    def written(text):
        return lambda row, answer: text(row, answer).replace(IMAGE, PICTURES[kind]).replace(SYSTEM, "")

    ways = {
        "yes-no": (written(asked), yes_or_no(plain, processor.tokenizer), ("--rubric", folder / "rubric.txt")),
        "value-head": (written(laid_out), value, ()),
    }
    for way, (text, read_output, given) in ways.items():
        expected = one_by_one(folder, "few.jsonl", processor, text, read_output)
        found = both(folder, "few.jsonl", "--model", model, "--kind", way, "--batch-size", 5, *given)
        assert found == pytest.approx(expected, abs=2e-4) and len({round(score, 2) for score in found}) > 6


def test_conversations_and_checkpoints_of_another_transformers(folder, tmp_path):
    """The same pairs in the sharegpt shape, or the same model saved by transformers 4, get other scores."""
    rows = read(folder / "all.jsonl")[:3]
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "images": "images"}
    write_dataset(folder, [as_sharegpt(row) for row in rows], "talk", columns, formatting="sharegpt")
    write(folder / "three.jsonl", rows)
    expected = both(folder, "three.jsonl", "--model", DEMO, "--kind", "yes-no")
    older = shutil.copytree(DEMO, tmp_path / "older")
    text = json.loads(AutoConfig.from_pretrained(DEMO).to_json_string(use_diff=False))["text_config"]
    text |= {"tie_word_embeddings": True}  # where 4.57 says it, and nowhere else
    change(older / "config.json", transformers_version="4.57.6", tie_word_embeddings=None, text_config=text)
    judge = ("--model", older, "--kind", "yes-no")
    score("talk", "--dataset-dir", folder, "-o", folder / "talk.jsonl", *judge)
    assert [read(folder / "talk.jsonl")[i]["score_chosen"] for i in range(3)] == pytest.approx(expected[::2], abs=1e-5)
    assert PORTABLE.read_bytes() == Path(portable.__file__).read_bytes(), "training writes checkpoints by another"


def test_a_judge_whose_biases_vllm_would_drop(tmp_path):
    """A GLM-4.1V has them whatever its config says; vLLM asks the config, and scores would be others."""
    model = checkpoint_of("glm4v", DEMO, tmp_path / "glm4v")
    options = SimpleNamespace(rubric=None, batch_size=1, device="cpu", dtype="float32")

    def start():
        return with_vllm(YesNo(Checkpoint(str(model)), Pictures(None, 512, 64), options), 1)

    with pytest.raises(DataError, match='of .*glm4v vLLM would drop the biases .* "attention_bias": true'):
        start()
    text = json.loads((model / "config.json").read_text())["text_config"]
    change(model / "config.json", text_config=text | {"attention_bias": True})
    assert start().identity["backend"] == "vllm"


def test_judge_of_text(tmp_path, folder, tiny_model):
    """A model of text alone, one whose positions are learned, so that padding before a text would show."""
    model = text_model(tiny_model, tmp_path / "model", "gpt2", n_positions=1024, n_embd=32, n_layer=2, n_head=2)
    text_classifier(tiny_model, tmp_path / "template")
    shutil.copy(tmp_path / "template" / "chat_template.jinja", model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    plain = yes_or_no(AutoModelForCausalLM.from_pretrained(model), tokenizer)
    expected = one_by_one(folder, "text.jsonl", tokenizer, asked, plain)
    judge = ("--model", model, "--kind", "yes-no", "--rubric", folder / "rubric.txt")
    assert both(folder, "text.jsonl", *judge) == pytest.approx(expected, abs=1e-4)
    with pytest.raises(DataError, match="row 1 .* has images, and this model reads text only"):
        both(folder, "all.jsonl", *judge)


@pytest.mark.parametrize(
    ("sees", "labels", "pad"),
    [(False, 1, True), (False, 2, True), (False, 1, False), (True, 1, True), (True, 1, False)],
)
def test_classifier(tmp_path, folder, tiny_model, sees, labels, pad):
    """Scores of the wrong label, of other images, of padding (also such as its config does not know), or of before."""
    data, kind, text = "text.jsonl", AutoTokenizer, laid_out
    if sees:
        data, kind, text = "all.jsonl", AutoProcessor, lambda row, answer: laid_out(row, answer, "<boi>", "")
        model = image_classifier(tiny_model, tmp_path / "model", pad)
    else:
        model = text_classifier(tiny_model, tmp_path / "model", labels, **({} if pad else {"pad_token_id": None}))
    weights = torch.tensor([1.0] if labels == 1 else [-1.0, 1.0])
    for _ in range(2 if labels == 2 else 1):
        classify = AutoModelForSequenceClassification.from_pretrained(model)
        read_output = lambda inputs, classify=classify: classify(**inputs).logits[0] @ weights  # noqa: E731
        expected = one_by_one(folder, data, kind.from_pretrained(model), text, read_output)
        found = both(folder, data, "--model", model, "--kind", "classifier", "--batch-size", 5)
        assert found == pytest.approx(expected, abs=1e-4) and max(expected) - min(expected) > 0.1
        if labels == 2:  # other weights are another scorer
            classify.score.weight.data *= 2
            classify.save_pretrained(model)


def test_reward_model_of_llamafactory(tmp_path, folder, tiny_model):
    """Another value than LlamaFactory's own prediction for the same answers (which it rounds to two digits)."""
    untied = shutil.copytree(tiny_model, tmp_path / "untied")  # LlamaFactory cannot save tied ones as safetensors
    change(untied / "config.json", tie_word_embeddings=False)
    write_dataset(folder, [{"history": [], "system": ""} | row for row in read(folder / "all.jsonl")], "described")
    info = json.loads((folder / "dataset_info.json").read_text())
    info["described"]["columns"] |= {"history": "history", "system": "system"}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    changes = {"stage": "rm", "pref_loss": None, "pref_beta": None, "do_predict": True, "learning_rate": 3e-2}
    changes |= {"dataset": "described", "eval_dataset": "described", "max_steps": 3}
    train(options(untied, folder, tmp_path / "rm", **changes))
    predicted = read(tmp_path / "rm" / "generated_predictions.jsonl")
    expected = [row[side] for row in predicted for side in ("chosen", "rejected")]
    given = ("--model", tmp_path / "rm", "--kind", "value-head")
    assert both(folder, "all.jsonl", *given) == pytest.approx(expected, abs=0.0051)
    assert max(expected) - min(expected) > 0.5


def test_one_answer_too_long_costs_the_others_nothing(tmp_path, folder, tiny_model):
    """A batch that fails takes its other answers along, or what does not fit is cut and scored all the same."""
    model = text_classifier(tiny_model, tmp_path / "model", max_position_embeddings=400)
    rows = [*read(folder / "text.jsonl"), {"instruction": "?", "chosen": "x " * 500, "rejected": "y", "images": []}]
    data, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    given = (data, "-o", out, "--model", model, "--kind", "classifier")
    with pytest.raises(DataError, match=r"1 of 5 rows .*\n  row 4, chosen: \d+ tokens, and the model takes 400"):
        score(*given)
    assert "4 rows with scores, 1 left out" in score(*given, "--drop-unscored")


@pytest.fixture(scope="module")
def no_scorers(tmp_path_factory, tiny_model):
    """Folders that hold no model that scores, each by its fault."""
    folder = tmp_path_factory.mktemp("models")
    names = ("random head", "three labels", "adapter", "flat template", "own head", "no template")
    made = {name: folder / name for name in names}
    three = text_classifier(tiny_model, made["three labels"], 3)
    text_model(tiny_model, made["random head"])
    shutil.copy(three / "chat_template.jinja", made["random head"])
    adapter(tiny_model, made["adapter"])
    record = {"uni_dpo": {"pref_loss": "uni_dpo", "adapters": [{"path": "/some/sft"}]}}
    (made["adapter"] / "tokenizer_config.json").write_text(json.dumps(record))
    dropped_head(tiny_model, made["own head"])
    for name, template in {"flat template": FLAT, "no template": None}.items():
        shutil.copytree(tiny_model, made[name])
        (made[name] / "chat_template.json").unlink()
        change(made[name] / "tokenizer_config.json", chat_template=template)
    return made | {"demo": DEMO, "absent": folder / "absent"}


@pytest.mark.parametrize(
    ("model", "kind", "says"),
    [
        ("demo", "classifier", "no classifier for qwen2_vl"),
        ("demo", "value-head", "no value_head.safetensors"),
        ("random head", "classifier", "lacks the weights score.weight"),
        ("three labels", "classifier", "3 labels"),
        ("adapter", "yes-no", "is a LoRA adapter. Merge it.*adapter_name_or_path: /some/sft,"),
        ("flat template", "yes-no", "writes nothing of a question"),
        ("own head", "yes-no", "tie_word_embeddings: true"),
        ("no template", "yes-no", "no chat template"),
        ("absent", "yes-no", "no such folder"),
    ],
)
def test_what_is_no_scorer(folder, no_scorers, model, kind, says):
    """A head of random numbers scores, or the error is a traceback."""
    with pytest.raises(DataError, match=says):
        both(folder, "text.jsonl", "--model", no_scorers[model], "--kind", kind)
