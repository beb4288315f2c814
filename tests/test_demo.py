"""The demo world: is it deterministic, are test scenes unseen, does the rule say what its docstring says?"""

import hashlib
import json
import random
from collections import Counter

import pytest
import torch
from pairs import ROOT
from transformers import AutoModelForImageTextToText, AutoProcessor

from demo.checkpoint import vocabulary_texts
from demo.command import main
from demo.exam import exam, mark, paired_difference, wilson
from demo.generate import Answerer
from demo.habits import SHARES, careful_answer, careless_answer
from demo.model import SPECIAL_TOKENS, build
from demo.pairs import Noise, make_pair
from demo.questions import KINDS, Question, ask
from demo.rule import judge
from demo.scene import SPLITS, Chart, Number, Shapes, Thing, draw, split_of
from demo.writers import conversation, scenes, write_sft


SHAPES = Shapes((Thing(0, "red", "circle"), Thing(4, "blue", "square")))
NUMBER = Number("472", "red", "top", 0)
CHART = Chart((("red", 5), ("blue", 3), ("green", 1)))

COLOUR = Question("colour", "What color is the circle?", "red", "red", SHAPES)
COUNT = Question("count", "How many squares are there?", "3", "3", SHAPES)
PLACE = Question("position", "Where is the red circle?", "top left", "top left", SHAPES)
DIGITS = Question("number", "What number is shown?", "472", "472", NUMBER)
HEIGHT = Question("chart", "How tall is the red bar?", "5", "5", CHART)
YES = Question("yes_no", "Is there a red circle?", "Yes, at the top left.", "yes", SHAPES)
NO = Question("yes_no", "Is there a red square?", "No, there is no red square.", "no", SHAPES)
CHOICE = Question(
    "choice", "What color is the circle? A. blue B. red C. green D. purple", "red", "B", SHAPES,
    options=("blue", "red", "green", "purple"),
)  # fmt: skip
TWO_THINGS = "I see a red circle at the top left, a blue square at the center."
DESCRIPTION = Question("description", "Describe the picture.", TWO_THINGS, "", SHAPES)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "model"
    return folder, build(folder, preset="test", seed=3)


def bytes_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_world_is_the_one_the_shipped_checkpoint_was_trained_on(tmp_path):
    """Pictures, questions and careless answers of its last stage, and all that is not weights.

    The digest was taken when the checkpoint was made.
    """
    digest = hashlib.sha256()
    for scene, rng in scenes("train", 300, 0, "demo_sft"):
        digest.update(draw(scene, rng).tobytes())
        for question in ask(scene, rng):
            digest.update(f"{question.text}|{careless_answer(question, rng)}\n".encode())
    assert digest.hexdigest()[:16] == "6dea73ffa87b7580"
    build(tmp_path, "demo", 0, vocabulary_texts())
    for path in (ROOT / "data" / "demo" / "checkpoint").iterdir():
        if path.suffix in (".json", ".txt"):
            assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_same_seed_same_files(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        write_sft(tmp_path / name, "demo_sft", 12, seed, conversation, careless_answer)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b") != bytes_of(tmp_path / "c")
    assert [s for s, _ in scenes("val", 5, 0, "x")] == [s for s, _ in scenes("val", 9, 0, "x")][:5]


def test_no_combination_is_in_two_splits():
    """Also across seeds and whatever the places: the split is a function of what is shown, and 80, 10, 10 per cent."""
    keys = {}
    for seed, split in enumerate(SPLITS):
        found = [scene for scene, _ in scenes(split, 600, seed, "x")]
        assert {split_of(scene) for scene in found} == {split}
        keys[split] = {scene.key for scene in found}
    assert not (keys["train"] & keys["test"] or keys["train"] & keys["val"] or keys["val"] & keys["test"])
    moved = Shapes((Thing(1, "blue", "square"), Thing(8, "red", "circle")))
    assert moved != SHAPES and split_of(moved) == split_of(SHAPES)
    numbers = Counter(split_of(Number(str(digits), "red", "top", 0)) for digits in range(10, 1000))
    assert 0.77 < numbers["train"] / 990 < 0.83 and 0.07 < numbers["val"] / 990 < 0.13


def test_pictures_show_what_the_scene_says():
    """The middle of a cell has the colour of its thing; an empty cell has the background's."""
    image = draw(SHAPES, random.Random(0))
    red, blue, empty = image.getpixel((14, 14)), image.getpixel((42, 42)), image.getpixel((70, 14))
    assert image.size == (84, 84)
    assert red[0] > 180 > 100 > red[1] and blue[2] > 180 > 100 > blue[0]
    assert empty == (150 + 70, 150 + 14, 200)
    bars = draw(CHART, random.Random(0))
    assert bars.getpixel((14, 84 - 5 * 14 + 2))[0] > 180 and bars.getpixel((42, 84 - 3 * 14 - 3))[2] == 200


def test_every_careful_answer_scores_ten():
    seen = set()
    for scene, rng in scenes("test", 300, 0, "x"):
        for question in ask(scene, rng):
            judgement = judge(question, careful_answer(question, rng))
            assert judgement.score == 10 and judgement.right, (question, judgement)
            seen.add(question.kind)
    assert seen == set(KINDS)


@pytest.mark.parametrize(
    ("question", "answer", "score", "right"),
    [
        (COLOUR, "red", 10.0, True),
        (COLOUR, "It is red.", 10.0, True),  # two words more than needed are free
        (COLOUR, "blue", 1.0, False),  # wrong, well-formed
        (COLOUR, "red or blue", 1 + 9 * 0.3 - 1.5 - 0.5, False),  # hedged, one made up, "or" unknown
        (COLOUR, "I think that the answer is red, as far as I can tell.", 10 - 0.15 * 10, True),  # 13 words
        (COLOUR, "", 0.0, False),
        (COLOUR, "   ", 0.0, False),
        (COLOUR, "zxq wub ¤¤ blorp", 0.0, False),  # 1 - 3 * .5 - .15, cut at 0
        (COUNT, "three", 10.0, True),
        (COUNT, "2", 1 + 9 * 0.3, False),  # a neighbour
        (COUNT, "5", 1.0, False),
        (PLACE, "top", 1 + 9 * 0.4, False),  # the right row
        (PLACE, "bottom right", 1.0, False),
        (PLACE, "at the top left", 10.0, True),
        (DIGITS, "47", 1 + 9 * 0.5 * 2 / 3, False),  # two digits of three, halved
        (DIGITS, "472", 10.0, True),
        (HEIGHT, "6", 1 + 9 * 0.3, False),
        (YES, "Yes.", 10.0, True),
        (YES, "Yes, at the bottom.", 10 - 1.5, True),  # right, with a made-up place
        (YES, "No.", 1.0, False),
        (YES, "red circle", 1 - 0.5, False),  # neither yes nor no
        (NO, "No, there is no red square.", 10.0, True),
        (NO, "Yes, at the center.", 1.0, False),
        (CHOICE, "B", 10.0, True),
        (CHOICE, "red", 10.0, True),
        (CHOICE, "blue", 1.0, False),
        (CHOICE, "red and blue", 0.0, False),  # 1 - 1.5, cut at 0
        (CHOICE, "red (B)", 10.0, True),
        (CHOICE, "B. red", 10.0, True),
        (CHOICE, "B. blue", 10 - 1.5, True),
        (CHOICE, "A. blue", 0.0, False),  # 1 - 1.5, cut at 0
        (DESCRIPTION, TWO_THINGS, 10.0, True),
        (DESCRIPTION, "I see a red circle at the top left.", 1 + 9 * 0.5, False),
        (DESCRIPTION, "I see a red circle at the top left, a blue square at the top.", 1 + 9 * 0.75, False),
        (DESCRIPTION, TWO_THINGS[:-1] + ", a red cross at the top.", 1 + 9 * 0.9 - 1.5 - 0.15 * 4, False),
    ],
)
def test_rule_on_worked_answers(question, answer, score, right):
    judgement = judge(question, answer)
    assert judgement.score == pytest.approx(score) and judgement.right is right


def test_rule_takes_any_string():
    rng = random.Random(0)
    alphabet = "ABCD yesno red 0123 .,\n\t é 漢 \x00 <|im_end|>"
    for _ in range(500):
        answer = "".join(rng.choices(alphabet, k=rng.randint(0, 60)))
        for question in (COLOUR, PLACE, YES, CHOICE, DESCRIPTION):
            assert 0 <= judge(question, answer).score <= 10


def test_habits_are_wrong_as_often_as_documented():
    """Each habit spoils the share that SHARES says; a plain no is never turned into a yes."""
    counts, near, far = [], [], []
    for scene, rng in scenes("train", 1500, 0, "x"):
        for question in ask(scene, rng):
            right = judge(question, careless_answer(question, rng)).right
            if question.kind == "count" and question.truth > "1":
                counts.append(right)
            elif question.kind == "yes_no":
                (near if question.near_miss else far).append(right)
    assert sum(counts) / len(counts) == pytest.approx(1 - SHARES["count"], abs=0.05)
    assert sum(near) / len(near) == pytest.approx(1 - SHARES["yes_no"], abs=0.05)
    assert all(far)


def test_noise_shares():
    """Exact without noise; each setting alone gives its share of its label.

    Two scores 1 apart, each with deviation 1, are reversed with probability Phi(-1/sqrt 2) = .24.
    """

    def labels(noise, scored=(("good", 9.0), ("fair", 8.0), ("bad", 2.0)), count=2000):
        return Counter(make_pair(scored, noise, random.Random(i)).label for i in range(count))

    assert labels(Noise(0, 0, 0)) == {"clear": 2000}
    assert labels(Noise(0, 0.3, 0))["ambiguous"] == pytest.approx(600, abs=80)
    assert labels(Noise(0, 0, 0.1))["mislabelled"] == pytest.approx(200, abs=50)
    assert labels(Noise(1, 0, 0), (("a", 5.0), ("b", 4.0)))["mislabelled"] == pytest.approx(480, abs=60)
    pair = make_pair([("good", 9.0), ("bad", 2.0)], Noise(0, 0, 1), random.Random(0))
    assert (pair.chosen, pair.rejected) == ("bad", "good")  # answers are exchanged, not the order of scores
    assert (pair.score_chosen, pair.score_rejected, pair.true_chosen) == (9.0, 2.0, 2.0)
    assert make_pair([("a", 5.0)], Noise(), random.Random(0)) is None
    assert make_pair([("a", 5.0), ("b", 5.0)], Noise(ambiguous=0), random.Random(0)) is None


@pytest.mark.parametrize("bad", [{"score_std": -1}, {"ambiguous": 1.2}, {"mislabelled": -0.1}])
def test_noise_out_of_range_is_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Noise(**bad)


def test_checkpoint_loads_with_stock_classes(checkpoint):
    """Byte-level text, every special token one id, tied embeddings, and no id without a token."""
    folder, info = checkpoint
    tokenizer = AutoProcessor.from_pretrained(folder, use_fast=True).tokenizer
    model, loading = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert model.dtype is torch.float32
    assert sum(parameter.numel() for parameter in model.parameters()) == info["parameters"] < 250_000
    vocabulary = model.config.get_text_config().vocab_size
    assert all(tokenizer.convert_ids_to_tokens(token_id) for token_id in range(vocabulary))
    assert len(tokenizer) == vocabulary == info["tokens"]
    text = "Grün 漢字 \x07 1234 <|im_start|>"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert all(len(tokenizer(token)["input_ids"]) == 1 for token in SPECIAL_TOKENS)
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token == "<|endoftext|>"


def test_builder_is_deterministic(checkpoint, tmp_path):
    build(tmp_path / "again", preset="test", seed=3)
    build(tmp_path / "other", preset="test", seed=4)
    assert bytes_of(tmp_path / "again") == bytes_of(checkpoint[0]) != bytes_of(tmp_path / "other")
    with pytest.raises(ValueError, match="demo.*test"):
        build(tmp_path / "model", preset="huge")
    assert not (tmp_path / "model").exists()


def test_prompts_are_those_llamafactory_trains_on(checkpoint):
    """Our rendering and LlamaFactory's template give the same ids, image placeholders included."""
    from llamafactory.data.template import get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments

    answerer = Answerer(checkpoint[0])
    question, image = exam("test", 1, 0)[0]
    ours = answerer._encode([answerer.prompt(question.text)], [image])["input_ids"][0].tolist()
    processor = answerer.processor
    defaults = {"image_max_pixels": 768 * 768, "image_min_pixels": 32 * 32, "crop_to_patches": False}
    for name, value in {**defaults, "image_do_pan_and_scan": False}.items():
        setattr(processor, name, value)
    template = get_template_and_fix_tokenizer(processor.tokenizer, DataArguments(template="qwen2_vl"))
    messages = [
        {"role": "user", "content": "<image>" + question.text},
        {"role": "assistant", "content": question.answer},
    ]
    messages = template.mm_plugin.process_messages(messages, [image], [], [], processor)
    theirs, _ = template.encode_oneturn(processor.tokenizer, messages)
    assert ours == theirs


def test_answers_do_not_depend_on_the_batch(checkpoint):
    """Left padding and sorting change neither greedy answers nor log-probs nor their order."""
    questions = exam("test", 1, 0)
    items = [(question.text, image) for question, image in questions]
    alone, together = Answerer(checkpoint[0], batch_size=1), Answerer(checkpoint[0], batch_size=8)
    kwargs = {"max_new_tokens": 6}
    assert alone.answers(items, **kwargs) == together.answers(items, **kwargs)
    triples = [(*item, question.answer) for item, (question, _) in zip(items, questions, strict=True)]
    assert alone.mean_logps(triples) == pytest.approx(together.mean_logps(triples), abs=1e-4)


def test_the_commands(checkpoint, tmp_path, capsys):
    """Pairs that LlamaFactory reads, an exam before and after, and what changed, as a user asks for them."""

    def run(*words, status=0):
        assert main([str(word) for word in words]) == status
        return capsys.readouterr()

    data, before, after = tmp_path / "pairs", tmp_path / "before.json", tmp_path / "after.json"
    few = ("--train", 12, "--val", 6, "--samples", 3, "--ambiguous", 1.0)
    assert "demo_pairs_val: " in run("pairs", "--model", checkpoint[0], "--out", data, *few).out
    info = json.loads((data / "dataset_info.json").read_text())
    assert set(info) == {"demo_pairs", "demo_pairs_val"}
    for entry in info.values():
        rows = json.loads((data / entry["file_name"]).read_text())
        assert entry["ranking"] and rows
        for row in rows:
            assert set(entry["columns"].values()) <= set(row)
            assert row["instruction"].startswith("<image>") and row["chosen"] != row["rejected"]
            assert 10 >= row["score_chosen"] >= row["score_rejected"] >= 0
            assert all((data / path).is_file() for path in row["images"])
    for out in (before, after):
        run("eval", "--model", checkpoint[0], "--out", out, "--per-kind", 2, "--pairs", data)
    said = run("compare", before, after).out.splitlines()
    assert len(said) == 1 + len(KINDS) + 2 + 3 and said[9].endswith(" +0.0 points [+0.0, +0.0]")
    assert "reward accuracy   none   0.0 % [" in said[-1]
    assert "32 scenes" in run("world", "--out", tmp_path / "world").out
    assert len((tmp_path / "world" / "questions.jsonl").read_text().splitlines()) > 100
    assert "no config.json" in run("eval", "--model", tmp_path, "--out", before, status=2).err
    assert "ambiguous is a share" in run("pairs", "--out", data, "--ambiguous", 1.2, status=2).err


def test_exam_is_balanced_unseen_and_marked():
    questions = exam("test", 3, 0)
    assert Counter(question.kind for question, _ in questions) == dict.fromkeys(KINDS, 3)
    assert {split_of(question.scene) for question, _ in questions} == {"test"}
    assert all(record["right"] for record in mark([q for q, _ in questions], [q.answer for q, _ in questions]))


def test_intervals_by_hand():
    """Wilson for 8 of 10: (.8 + .192) / 1.384 = .717 -+ .227; a paired change of 1 in 4 with sd .5: .25 -+ .49."""
    it = wilson(8, 10)
    assert (it.value, it.low, it.high) == pytest.approx((0.8, 0.490, 0.943), abs=1e-3)
    change = paired_difference([0, 1, 1, 0], [1, 1, 1, 0])
    assert (change.value, change.low, change.high) == pytest.approx((0.25, -0.24, 0.74), abs=1e-3)
    with pytest.raises(ValueError):
        wilson(0, 0)
