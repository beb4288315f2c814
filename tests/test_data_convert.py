"""`data.py convert`: every shape becomes the same pair, and LlamaFactory's own loader takes it with its images."""

import json
import os
from pathlib import Path

import pytest
from data_cli import DATA, call, data
from raw_shapes import ASKED, CHOSEN, REJECTED, convert, draw, preferences, say, several
from trl.data_utils import extract_prompt

from pair_data.convert.fields import Fields
from pair_data.convert.shapes import read, recognise
from pair_data.rows import read_rows
from pair_data.writing import write_rows


COLUMNS = ("history", "system", "chosen", "rejected", "images")
SIDES = ("chosen", "rejected")
PAIR = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}
RANKED = [{"response": text, "score": 4 - n, "rank": n} for n, text in enumerate(("best", "good", "bad"), 1)]


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("drawn") / "red.png")


def loaded(file, model):
    """Rows of a file as LlamaFactory's loader, converter and qwen2_vl template make them."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    columns = {column: column for column in COLUMNS} | {"prompt": "instruction"}
    entry = {"file_name": file.name, "ranking": True, "columns": columns}
    (file.parent / "dataset_info.json").write_text(json.dumps({"pairs": entry}))
    options = {"model_name_or_path": str(model), "stage": "rm", "do_train": True, "dataset": "pairs"}
    options |= {"dataset_dir": str(file.parent), "template": "qwen2_vl", "output_dir": str(file.parent / "out")}
    model_args, data_args, training_args, _, _ = get_train_args(options | {"preprocessing_num_workers": 1})
    module = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(module["tokenizer"], data_args)
    made = get_dataset(template, model_args, data_args, training_args, stage="rm", **module)["train_dataset"]
    return [row | {"text": module["tokenizer"].decode(row["chosen_input_ids"])} for row in made]


def test_every_preference_shape_gives_the_same_pair(image, tmp_path, tiny_model):
    """A shape would be taken for another, its picture lost or put elsewhere, or training could not read it."""
    shapes, files = preferences(image), []
    turns = [say("system", "Be brief."), say("user", "Look."), say("assistant", "I do.")]
    turns += [{"role": "user", "content": [{"type": "text", "text": "At "}, {"type": "image", "image": image}]}]
    dialogue = {"chosen": [*turns, say("assistant", "Yes.")], "rejected": [*turns, say("assistant", "No.")]}
    for number, row in enumerate([*shapes.values(), dialogue]):
        files.append(tmp_path / f"{number:02d}.{'parquet' if 'bytes' in str(row) else 'jsonl'}")
        write_rows(files[-1], [row])
    report = convert(*files, "-o", tmp_path / "pairs.json")
    *rows, talk = read_rows(tmp_path / "pairs.json")
    assert len(rows) == len(shapes)
    for name, file, row in zip(shapes, files, rows, strict=False):
        assert f"{file}: recognised as {name.split()[0]} (" in report
        asked = "<image>What colour\nis it?" if "input" in name else "<image>" + ASKED
        assert (row["instruction"], row["chosen"], row["rejected"]) == (asked, CHOSEN, REJECTED), name
        (path,) = row["images"]
        assert (tmp_path / path).read_bytes() == Path(image).read_bytes(), name
        assert path == image or not Path(path).is_absolute()
        assert (row["history"], row["system"]) == ([], "") and "score_chosen" not in row
    assert len(list((tmp_path / "pairs_images").rglob("*.png"))) == 1, "one file for the same picture"
    assert (talk["history"], talk["system"]) == ([["Look.", "I do."]], "Be brief.")
    assert (talk["instruction"], talk["images"]) == ("At <image>", [image])
    *taken, talk = loaded(tmp_path / "pairs.json", tiny_model)
    assert len(taken) == len(rows)
    assert all(row["images"] and row["text"].count("<|vision_start|>") == 1 for row in taken)
    assert "Be brief." in talk["text"] and talk["text"].index("I do.") < talk["text"].index("<|vision_start|>")


@pytest.mark.parametrize("name", several("x"))
def test_answers_are_found_by_meaning(image, name):
    """Answers, scores or ranks under another name or in another place would be missed."""
    row = several(image)[name]
    shape, fields = recognise([{"broken": 1}, row], name, Fields())
    question = read(row, shape, fields)
    assert shape == "answers" and question.turns[-1].text == "<image>" + ASKED
    if name == "messages":
        assert [(answer.text, answer.score) for answer in question.answers] == [("No", 4.8), ("x", 4.9)]
        return
    known = {answer.text: (answer.score, answer.rank) for answer in question.answers}
    ranks = (None, None) if "vlfeedback" in name or name == "conversation" else (1, 2)
    assert known == {CHOSEN: (3, ranks[0]), REJECTED: (1, ranks[1])}


def test_one_answer_without_a_score_does_not_hide_the_others():
    """A first row that nobody rated would leave the whole data set without scores."""
    rated = [{"text": "a"}, {"text": "b", "score": 1, "rank": 2}, {"text": "c", "score": 3, "rank": 1}]
    rows = [{"question": "?", "answers": ["a", "b"]}, {"question": "?", "answers": rated}]
    found = read(rows[1], *recognise(rows, "rows", Fields())).answers
    assert [(answer.score, answer.rank) for answer in found] == [(None, None), (1, 2), (3, 1)]


def test_two_columns_can_be_named(tmp_path):
    """Data with names of its own would be out of reach: here answers are two columns, and the scores decide."""
    wide, output = tmp_path / "wide.jsonl", tmp_path / "pairs.parquet"
    write_rows(wide, [{"question": "Why?", "a": "So.", "b": "No.", "by.judge": 1, "said": {"of.b": 2}}])
    convert(wide, "-o", output, "--answers", "a,b", "--score", "by.judge,said.of.b")
    assert [(row["chosen"], row["score_chosen"], row["images"]) for row in read_rows(output)] == [("No.", 2.0, [])]
    convert(wide, "-o", output, "--from", "trl", "--answers", "a,b", "--score", "by.judge")
    assert [row["chosen"] for row in read_rows(output)] == ["So."]


def test_mm_rlhf(tmp_path):
    """MM-RLHF's images would not be found, videos or ties would be trained on, subsets could not be told apart."""
    folders = ("long", "short", "mcq")
    rows = [{"id": 1, "video": "video/a.mp4", "question": "What moves?", "responses": RANKED}] * 25
    rows[0] = rows[0] | {"video": "/elsewhere/a.mp4"}  # recognised by those after it
    rows[1] = rows[1] | {"image": "long/thumbnail.png"}  # a picture question it is not
    rows += [{"image": f"{part}/{n}.png", "question": "What?", "responses": RANKED} for n, part in enumerate(folders)]
    write_rows(tmp_path / "data.jsonl", rows)
    report = convert(tmp_path / "data.jsonl", "-o", tmp_path / "pairs.json", "--pairs", "adjacent")
    pairs = list(read_rows(tmp_path / "pairs.json"))
    assert "recognised as mm-rlhf " in report and "25 left out: a video" in report
    expected = [([f"MM-RLHF/{part}/{n}.png"], part) for n, part in enumerate(folders)]
    assert [(row["images"], row["subset"]) for row in pairs[::2]] == expected
    found = [(row["chosen"], row["score_chosen"], row["rank_rejected"]) for row in pairs[:2]]
    assert found == [("best", 3.0, 2.0), ("good", 2.0, 3.0)]
    tied = PAIR | {"image": "long/1.png", "is_tie": True}
    write_rows(tmp_path / "dpo_pairs.jsonl", [tied, tied | {"is_tie": False}])
    for options, count in (((), 1), (("--keep-ties",), 2)):
        convert(tmp_path / "dpo_pairs.jsonl", "-o", tmp_path / "out.json", *options)
        assert [row["images"] for row in read_rows(tmp_path / "out.json")] == [["MM-RLHF/long/1.png"]] * count


def test_implicit_prompts_are_split_as_trl_splits_them(tmp_path):
    """Another prompt than trl's would be trained on."""
    turns = [say("user", "Hi"), say("assistant", "Ho"), say("user", "Why?")]
    rows = [
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        {"chosen": "Sum: 12", "rejected": "Sum: 21"},
        {side: [*turns, say("assistant", side)] for side in SIDES},
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

    rows = [preferences(image)["rlaif-v"] | {"idx": str(n)} for n in range(30)]
    features = datasets.Features({name: datasets.Value("string") for name in rows[0]} | {"image": datasets.Image()})
    made = datasets.Dataset.from_list(rows, features=features)
    made.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": made, "test": made.select(range(3))}).save_to_disk(tmp_path / "splits")
    (tmp_path / "hub" / "data").mkdir(parents=True)
    for shard in range(3):
        part = made.shard(3, shard, contiguous=True)
        part.to_parquet(tmp_path / "hub" / "data" / f"train-0000{shard}-of-00003.parquet")
    for folder, options in (("saved", []), ("hub", []), ("splits", ["--split", "train"])):
        output = tmp_path / f"{folder}.json"
        convert(tmp_path / folder, "-o", output, *options)
        assert [row["id"] for row in read_rows(output)] == [str(n) for n in range(30)], folder
        assert all((tmp_path / row["images"][0]).read_bytes() == Path(image).read_bytes() for row in read_rows(output))
    assert "train, test" in convert(tmp_path / "splits", "-o", tmp_path / "no.json", fails=True)
    assert not (tmp_path / "no.json").exists()


def test_the_cut_into_files_does_not_matter(tmp_path):
    """The same data in shards would give other pairs."""
    rows = [{"question": f"{n}?", "answers": RANKED, "id": n} for n in range(60)]
    options = ["--pairs", "all", "--max-per-question", "1", "--seed", "3"]
    write_rows(tmp_path / "whole.parquet", rows)
    shards = [tmp_path / f"{n}.jsonl" for n in range(3)]
    for n, shard in enumerate(shards):
        write_rows(shard, rows[20 * n : 20 * n + 20])
    convert(tmp_path / "whole.parquet", "-o", tmp_path / "whole.json", *options)
    convert(*shards, "-o", tmp_path / "parts.json", *options)
    assert (tmp_path / "whole.json").read_bytes() == (tmp_path / "parts.json").read_bytes()
    assert len({row["chosen"] + row["rejected"] for row in read_rows(tmp_path / "whole.json")}) == 3
    convert(*shards, "-o", tmp_path / "few.json", *options, "--limit", "30")
    assert [row["id"] for row in read_rows(tmp_path / "few.json")] == [str(n) for n in range(30)]


def test_scores_are_for_all_or_for_none(tmp_path):
    """A column that some rows lack ends training, or scores and ranks would be made up."""
    file, output = tmp_path / "in.jsonl", tmp_path / "out.json"
    scored = PAIR | {"chosen_score": 2, "rejected_score": "1"}
    write_rows(file, [scored, PAIR, scored])
    message = convert(file, "-o", output, fails=True)
    assert "2 of 3 pairs" in message and "--only-scored" in message and not output.exists()
    assert "1 pairs left out: no scores (row 1)" in convert(file, "-o", output, "--only-scored")
    assert [(row["score_chosen"], row["score_rejected"]) for row in read_rows(output)] == [(2.0, 1.0)] * 2
    convert(file, "-o", output, "--no-scores")
    assert [set(row) & {"score_chosen", "score_rejected"} for row in read_rows(output)] == [set()] * 3
    assert "contradict" in convert(file, "-o", output, "--no-scores", "--only-scored", fails=True)
    unranked = [answer | {"rank": None} for answer in RANKED]
    write_rows(file, [{"question": "?", "answers": unranked}, {"question": "?", "answers": RANKED}])
    convert(file, "-o", output)
    columns = {"chosen", "images", "instruction", "rejected", "score_chosen", "score_rejected"}
    assert [set(row) for row in read_rows(output)] == [columns] * 2


def test_lists_that_come_late_do_not_go_into_jsonl(tmp_path):
    """LlamaFactory would fail hours later: the type of the column is taken from the first 10 MB."""
    file, long, talk = tmp_path / "in.jsonl", PAIR | {"prompt": "q" * 100_000}, PAIR | {"history": [["a", "b"]]}
    write_rows(file, [*[long] * 60, talk])
    assert "10 MB" in convert(file, "-o", tmp_path / "out.jsonl", fails=True)
    convert(file, "-o", tmp_path / "out.parquet")
    write_rows(file, [talk, *[long] * 60, PAIR | {"image": "a.png"}])
    convert(file, "-o", tmp_path / "out.jsonl")
    assert [len(row["images"]) for row in read_rows(tmp_path / "out.jsonl")] == [1] + [0] * 61


@pytest.mark.parametrize(("before", "moved"), [(999, False), (1000, True)])
def test_images_do_not_come_late(image, tmp_path, before, moved):
    """Training's loader would take the column for empty, and refuse the first image after 1,000 rows without."""
    rows = [PAIR | {"id": n} | ({"image": image} if n in (before, before + 7) else {}) for n in range(before + 30)]
    write_rows(tmp_path / "in.jsonl", rows)
    report = convert(tmp_path / "in.jsonl", "-o", tmp_path / "out.json")
    ids = [int(row["id"]) for row in read_rows(tmp_path / "out.json")]
    assert ids == ([before] if moved else []) + [n for n in range(before + 30) if n != before or not moved]
    assert ("comes first" in report) == moved
    assert "images-late" not in data("check", tmp_path / "out.json", "--no-images", "--workers", 1)[1]


def test_sources_that_give_nothing_get_one_message(tmp_path):
    """A typing error would destroy data or end in a traceback, and a file be looked for on the hub."""
    write_rows(tmp_path / "a.jsonl", [PAIR])
    for name in ("list.json", "empty.parquet"):
        write_rows(tmp_path / name, [])
    for name in ("a.txt", "empty.json"):
        (tmp_path / name).write_text("")
    for name in ("cut.json", "cut.jsonl", "cut.parquet"):  # half a download
        write_rows(tmp_path / name, [PAIR] * 50)
        os.truncate(tmp_path / name, (tmp_path / name).stat().st_size * 2 // 3)
    output = tmp_path / "out.json"
    messages = dict.fromkeys(("list.json", "empty.parquet", "empty.json"), "there are no rows to convert.")
    messages |= dict.fromkeys(("cut.json", "cut.jsonl"), "Download it again")
    messages |= {"cut.parquet": "Parquet", "a.txt": "a.txt: the name must end in .json"}
    for name, said in messages.items():
        message = convert(tmp_path / name, "-o", output, fails=True)
        assert said in message and "Hub" not in message
    assert "network" in convert("nobody/nothing", "-o", output, fails=True)
    assert "another name" in convert(tmp_path / "a.jsonl", "-o", tmp_path / "a.jsonl", fails=True)
    (tmp_path / "folder.json").mkdir()
    for place in ("out", "folder.json", "a.txt/out.json"):  # said before hours of reading
        said = convert("nobody/nothing", "-o", tmp_path / place, fails=True)
        assert place in said and "network" not in said
    assert not output.exists()
    ended = call(*DATA, "convert", "x.jsonl", "-o", "y.json", cwd=tmp_path)
    assert ended == (2, "", "Error: there is no file x.jsonl\n")
