"""Every shape becomes the same pair, and LlamaFactory's own loader takes it with its images."""

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import pyarrow
import pyarrow.parquet
import pytest
import raw_shapes
from pairs import ROOT
from trl.data_utils import extract_prompt

from pair_data.cli import main
from pair_data.convert.fields import Fields
from pair_data.convert.shapes import recognise
from pair_data.rows import read_rows
from pair_data.writing import write_rows


PROGRAM = [sys.executable, str(ROOT / "scripts" / "uni_dpo" / "data.py"), "convert"]
COLUMNS = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected", "images": "images"}


def convert(*arguments, fails=False):
    """Run the command line in this process, and return what it prints, or its error."""
    out, error = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(error), patch.object(sys, "argv", ["data.py", "convert"]):
        sys.argv += map(str, arguments)
        with pytest.raises(SystemExit) as ended:
            main()
    status = ended.value.code or 0
    assert status == (2 if fails else 0), out.getvalue() + error.getvalue()
    return error.getvalue() if fails else out.getvalue()


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return raw_shapes.draw(tmp_path_factory.mktemp("drawn") / "red.png")


@pytest.fixture(scope="module")
def loaded(tiny_model):
    """Rows of a file as LlamaFactory's loader, converter and qwen2_vl template make them."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    def load(file):
        columns = COLUMNS | {"history": "history", "system": "system"}
        columns = {use: column for use, column in columns.items() if column in next(read_rows(file))}
        entry = {"file_name": file.name, "ranking": True, "columns": columns}
        (file.parent / "dataset_info.json").write_text(json.dumps({"pairs": entry}))
        options = {"model_name_or_path": str(tiny_model), "stage": "rm", "do_train": True, "dataset": "pairs"}
        options |= {"dataset_dir": str(file.parent), "template": "qwen2_vl", "output_dir": str(file.parent / "out")}
        model_args, data_args, training_args, _, _ = get_train_args(options | {"preprocessing_num_workers": 1})
        module = load_tokenizer(model_args)
        template = get_template_and_fix_tokenizer(module["tokenizer"], data_args)
        data = get_dataset(template, model_args, data_args, training_args, stage="rm", **module)["train_dataset"]
        return [row | {"text": module["tokenizer"].decode(row["chosen_input_ids"])} for row in data]

    return load


def suffix(row):
    return "parquet" if "bytes" in str(row) else "jsonl"


def test_every_preference_shape_gives_the_same_pair(image, tmp_path, loaded):
    """A shape would be taken for another, its picture lost or put elsewhere, or training could not read it."""
    files = []
    for number, (name, row) in enumerate(raw_shapes.preferences(image).items()):
        files.append(tmp_path / f"{number:02d}.{suffix(row)}")
        write_rows(files[-1], [row])
        assert recognise(read_rows(files[-1]), name, Fields())[0].name == name.split()[0]
    output = tmp_path / "pairs.json"
    convert(*files, "-o", output)
    rows = list(read_rows(output))
    assert len(rows) == len(files)
    for name, row in zip(raw_shapes.preferences(image), rows, strict=True):
        asked = "<image>What colour\nis it?" if "input" in name else "<image>" + raw_shapes.ASKED
        expected = (asked, raw_shapes.CHOSEN, raw_shapes.REJECTED)
        assert (row["instruction"], row["chosen"], row["rejected"]) == expected, name
        (path,) = row["images"]
        assert (tmp_path / path).read_bytes() == Path(image).read_bytes(), name
    assert len(list((tmp_path / "pairs_images").rglob("*.png"))) == 1, "one file for the same picture"
    assert not any(Path(path).is_absolute() for row in rows for path in row["images"] if path != image)
    taken = loaded(output)
    assert len(taken) == len(rows)
    assert all(row["images"] and row["text"].count("<|vision_start|>") == 1 for row in taken)


@pytest.mark.parametrize("name", raw_shapes.several("x"))
def test_answers_are_found_by_meaning(image, tmp_path, name):
    """Answers, scores or ranks under another name or in another place would be missed."""
    row = raw_shapes.several(image)[name]
    shape, fields = recognise([{"broken": 1}, row], name, Fields())
    question = shape.read(row, fields)
    assert shape.name == "answers" and question.turns[-1].text == "<image>" + raw_shapes.ASKED
    if name == "messages":
        assert [(answer.text, answer.score) for answer in question.answers] == [("No", 4.8), ("x", 4.9)]
        return
    known = {answer.text: (answer.score, answer.rank) for answer in question.answers}
    ranks = (None, None) if "vlfeedback" in name or name == "conversation" else (1, 2)
    assert known == {raw_shapes.CHOSEN: (3, ranks[0]), raw_shapes.REJECTED: (1, ranks[1])}


def test_one_answer_without_a_score_does_not_hide_the_others():
    """A first row that nobody rated would leave the whole data set without scores."""
    rated = [{"text": "a"}, {"text": "b", "score": 1, "rank": 2}, {"text": "c", "score": 3, "rank": 1}]
    rows = [{"question": "?", "answers": ["a", "b"]}, {"question": "?", "answers": rated}]
    shape, fields = recognise(rows, "rows", Fields())
    assert [answer.score for answer in shape.read(rows[1], fields).answers] == [None, 1, 3]
    assert [answer.rank for answer in shape.read(rows[1], fields).answers] == [None, 2, 1]


def test_names_can_be_given(image, tmp_path):
    """Data with names of its own would be out of reach."""
    answers = [
        {"said": {"by": raw_shapes.REJECTED}, "by.judge": 1},
        {"said": {"by": raw_shapes.CHOSEN}, "by.judge": 2},
    ]
    write_rows(tmp_path / "odd.jsonl", [{"q": {"en": raw_shapes.ASKED}, "pic": image, "all": {"of": answers}}] * 2)
    output = tmp_path / "pairs.parquet"
    assert "known" in convert(tmp_path / "odd.jsonl", "-o", output, fails=True)
    names = ["--question", "q.en", "--image", "pic", "--answers", "all.of", "--text", "said.by", "--score", "by.judge"]
    convert(tmp_path / "odd.jsonl", "-o", output, *names)
    (row, _) = read_rows(output)
    assert (row["chosen"], row["score_chosen"], row["score_rejected"]) == (raw_shapes.CHOSEN, 2.0, 1.0)
    write_rows(tmp_path / "wide.jsonl", [{"question": "Why?", "a": "So.", "b": "No.", "sa": 1, "sb": 2}])
    convert(tmp_path / "wide.jsonl", "-o", output, "--answers", "a,b", "--score", "sa,sb")
    assert [(row["chosen"], row["images"]) for row in read_rows(output)] == [("No.", [])]


def test_mm_rlhf(tmp_path):
    """MM-RLHF's images would not be found, videos or ties would be trained on, subsets could not be told apart."""
    answers = [{"response": text, "score": 4 - n, "rank": n} for n, text in enumerate(("best", "good", "bad"), 1)]
    rows = [{"id": 1, "video": "video/a.mp4", "question": "What moves?", "responses": answers}] * 25
    rows[0] = rows[0] | {"video": "/elsewhere/a.mp4"}  # recognised by those after it
    rows[1] = rows[1] | {"image": "long/thumbnail.png"}  # a picture question it is not
    rows += [{"id": n, "image": f"{part}/{n}.png", "question": "What?", "responses": answers} for n, part in FOLDERS]
    write_rows(tmp_path / "data.jsonl", rows)
    report = convert(tmp_path / "data.jsonl", "-o", tmp_path / "pairs.json", "--pairs", "adjacent")
    pairs = list(read_rows(tmp_path / "pairs.json"))
    assert "recognised as mm-rlhf " in report and "25 left out: a video" in report
    assert [(row["images"], row["subset"]) for row in pairs[::2]] == [
        ([f"MM-RLHF/{part}/{n}.png"], part) for n, part in FOLDERS
    ]
    assert [(row["chosen"], row["score_chosen"], row["rank_rejected"]) for row in pairs[:2]] == [
        ("best", 3.0, 2.0),
        ("good", 2.0, 3.0),
    ]
    tied = {"image": "long/1.png", "prompt": "What?", "chosen": "a", "rejected": "b", "is_tie": True}
    write_rows(tmp_path / "dpo_pairs.jsonl", [tied, tied | {"is_tie": False}])
    for options, count in (((), 1), (("--keep-ties",), 2)):
        convert(tmp_path / "dpo_pairs.jsonl", "-o", tmp_path / "out.json", *options)
        assert [row["images"] for row in read_rows(tmp_path / "out.json")] == [["MM-RLHF/long/1.png"]] * count


FOLDERS = [(0, "long"), (1, "short"), (2, "mcq")]


def test_dialogues_and_systems(image, tmp_path, loaded):
    """Earlier turns or the system prompt would be lost; the picture would move to another turn."""
    say = raw_shapes.say
    turns = [say("system", "Be brief."), say("user", "Look."), say("assistant", "I do.")]
    asked = [*turns, {"role": "user", "content": [{"type": "text", "text": "At "}, {"type": "image", "image": image}]}]
    row = {"chosen": [*asked, say("assistant", "Yes.")], "rejected": [*asked, say("assistant", "No.")]}
    first = {"prompt": "Hm?", "chosen": "a", "rejected": "b", "score_chosen": 1}
    write_rows(tmp_path / "a.jsonl", [row])
    write_rows(tmp_path / "b.jsonl", [first])
    convert(tmp_path / "b.jsonl", tmp_path / "a.jsonl", "-o", tmp_path / "pairs.json")
    one, two = read_rows(tmp_path / "pairs.json")
    assert (one["history"], one["system"]) == ([], "") and "score_chosen" not in one
    assert (two["history"], two["system"]) == ([["Look.", "I do."]], "Be brief.")
    assert (two["instruction"], two["images"]) == ("At <image>", [image])
    one, two = loaded(tmp_path / "pairs.json")
    assert "Be brief." in two["text"] and two["text"].index("I do.") < two["text"].index("<|vision_start|>")


def test_implicit_prompts_are_split_as_trl_splits_them(tmp_path):
    """Another prompt than trl's would be trained on."""
    say = raw_shapes.say
    rows = [
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        {"chosen": "Sum: 12", "rejected": "Sum: 21"},
        {
            side: [say("user", "Hi"), say("assistant", "Ho"), say("user", "Why?"), say("assistant", side)]
            for side in SIDES
        },
    ]
    write_rows(tmp_path / "implicit.jsonl", rows)
    convert(tmp_path / "implicit.jsonl", "-o", tmp_path / "pairs.json")
    for row, pair in zip(rows, read_rows(tmp_path / "pairs.json"), strict=True):
        split = extract_prompt(row)
        if isinstance(row["chosen"], list):
            texts = [text for turn in pair["history"] for text in turn] + [pair["instruction"]]
            assert texts == [turn["content"] for turn in split["prompt"]]
            split |= {side: split[side][0]["content"] for side in SIDES}
        else:
            assert pair["instruction"] == split["prompt"]
        assert all(pair[side] == split[side] for side in SIDES)


SIDES = ("chosen", "rejected")


@pytest.mark.parametrize("kind", ["json", "jsonl", "parquet"])
def test_our_own_pairs_stay_the_same(tmp_path, kind):
    """Converting twice would change the data, or lose ties and reversed pairs that are there on purpose."""
    row = {"instruction": "<image>Why?", "history": [["Hm", "Ho"]], "system": "S", "chosen": "a", "rejected": "b"}
    row |= {"score_chosen": 1.5, "score_rejected": 1.5, "images": ["MM-RLHF/long/1.png"], "id": "x", "subset": "long"}
    rows = [row | {"rank_chosen": 1.0, "rank_rejected": 2.0}, row | {"score_chosen": 0.0, "rank_chosen": 1.0}]
    rows[1] |= {"rank_rejected": 1.0}
    write_rows(tmp_path / f"ours.{kind}", rows)
    report = convert(tmp_path / f"ours.{kind}", "-o", tmp_path / f"again.{kind}")
    assert list(read_rows(tmp_path / f"again.{kind}")) == rows
    assert "1 pairs whose chosen answer has the lower score" in report


def test_folders_and_streams(image, tmp_path):
    """Shards, save_to_disk folders and splits would be read half, in another order, or with pictures decoded."""
    import datasets

    rows = [row for name, row in raw_shapes.preferences(image).items() if name == "rlaif-v"] * 30
    rows = [row | {"idx": str(n)} for n, row in enumerate(rows)]
    features = datasets.Features({name: datasets.Value("string") for name in rows[0]} | {"image": datasets.Image()})
    data = datasets.Dataset.from_list(rows, features=features)
    data.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": data, "test": data.select(range(3))}).save_to_disk(tmp_path / "splits")
    (tmp_path / "hub" / "data").mkdir(parents=True)
    for shard in range(3):
        data.shard(3, shard, contiguous=True).to_parquet(
            tmp_path / "hub" / "data" / f"train-0000{shard}-of-00003.parquet"
        )
    for folder, options in (("saved", []), ("hub", []), ("splits", ["--split", "train"])):
        output = tmp_path / f"{folder}.json"
        convert(tmp_path / folder, "-o", output, *options)
        assert [row["id"] for row in read_rows(output)] == [str(n) for n in range(30)], folder
        assert all((tmp_path / row["images"][0]).read_bytes() == Path(image).read_bytes() for row in read_rows(output))
    assert "train, test" in convert(tmp_path / "splits", "-o", tmp_path / "no.json", fails=True)
    assert not (tmp_path / "no.json").exists()


def test_nothing_is_written_over_the_input_or_for_a_source_that_is_not_there(tmp_path):
    """A typing error would destroy data, or end in a traceback."""
    write_rows(tmp_path / "a.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "b"}])
    assert "another name" in convert(tmp_path / "a.jsonl", "-o", tmp_path / "a.jsonl", fails=True)
    assert "no file" in convert(tmp_path / "b.jsonl", "-o", tmp_path / "c.jsonl", fails=True)
    assert "network" in convert("nobody/nothing", "-o", tmp_path / "c.jsonl", fails=True)
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["q"] * 9000}), tmp_path / "cut.parquet")
    os.truncate(tmp_path / "cut.parquet", 200)
    assert "Parquet" in convert(tmp_path / "cut.parquet", "-o", tmp_path / "c.jsonl", fails=True)
    assert not (tmp_path / "c.jsonl").exists()
    ended = subprocess.run([*PROGRAM, "x.jsonl", "-o", "y.json"], capture_output=True, text=True, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (2, "Error: there is no file x.jsonl\n")
