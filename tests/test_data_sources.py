"""Columns and pairs are read as LlamaFactory reads them: the same rows through its own parser and converters."""

import io
import json
import os
from types import SimpleNamespace

import pytest
from pairs import as_openai, as_sharegpt
from PIL import Image

from pair_data import DataError
from pair_data.images import ImageError, scale, stretch
from pair_data.pairs import RowError, read_pair, read_score
from pair_data.score.pictures import Pictures
from pair_data.sources import open_source


ROW = {
    "instruction": "<image>What is it?",
    "input": "Be short.",
    "history": [["Hello", "Hi"], ["More", "Yes"]],
    "system": "You see.",
    "chosen": "A cat",
    "rejected": "A dog",
    "images": ["a.png", "missing.png"],
}
COLUMNS = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected", "images": "images"}
ALL = COLUMNS | {"query": "input", "history": "history", "system": "system"}
TALK = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "images": "images"}
OPENAI_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
    "observation_tag": "tool",
    "function_tag": "call",
}
OPENAI = {"formatting": "openai", "columns": TALK | {"messages": "messages"}, "tags": OPENAI_TAGS}
SHAREGPT = {"formatting": "sharegpt", "columns": TALK | {"system": "system"}}


def says(role, text, tags=("from", "value")):
    return dict(zip(tags, (role, text), strict=True))


def talk(*turns):
    return as_sharegpt(ROW) | {"conversations": [says(*turn) for turn in turns]}


def tools(*turns):
    return as_openai(ROW) | {"messages": [says(*turn, ("role", "content")) for turn in turns]}


CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "größe", "arguments": "{}"}}]}
called = tools(("user", "q"), ("tool", "1"), ("tool", "2"), ("user", "so?"))
called["messages"].insert(1, CALL)
called["messages"].insert(-1, says("assistant", "ok", ("role", "content")))

# What an entry of dataset_info.json says beside the file's name, and a row.
CASES = {
    "alpaca": ({"columns": COLUMNS}, ROW),
    "alpaca, all columns": ({"columns": ALL}, ROW),
    "alpaca, nothing in them": (
        {"columns": ALL},
        ROW | {"input": "", "history": [], "system": "", "images": []},
    ),
    "alpaca, null in them": ({"columns": ALL}, ROW | {"input": None, "history": None, "images": None}),
    "alpaca, other names": ({"columns": COLUMNS | {"prompt": "q"}}, ROW | {"q": "Really?"}),
    "alpaca, only the input": ({"columns": ALL | {"prompt": None}}, ROW),
    "one image": ({"columns": COLUMNS}, ROW | {"images": "a.png"}),
    "images as bytes": ({"columns": COLUMNS}, ROW | {"images": [{"bytes": b"x", "path": None}]}),
    "sharegpt": (SHAREGPT, as_sharegpt(ROW)),
    "sharegpt, system first": (SHAREGPT, talk(("system", "Be."), ("human", "q"), ("gpt", "a"), ("human", "r"))),
    "sharegpt, tools": (SHAREGPT, talk(("human", "q"), ("function_call", "f()"), ("observation", "2"))),
    "sharegpt, openai's names": (OPENAI | {"formatting": "sharegpt"}, as_openai(ROW)),
    "openai": (OPENAI, as_openai(ROW)),
    "openai, calls of tools": (OPENAI, called),
}
# Upstream makes an empty or a single answer of these, or stops with an error of its own.
REFUSED = {
    "no answer": ({"columns": COLUMNS}, ROW | {"rejected": None}, "rejected"),
    "a column that is not there": ({"columns": COLUMNS | {"chosen": "best"}}, ROW, "best"),
    "no columns": ({}, ROW, "chosen"),
    "history in two": ({"columns": ALL}, ROW | {"history": [["a", "b", "c"]]}, "history"),
    "two questions": (SHAREGPT, talk(("human", "q"), ("human", "r"), ("gpt", "a")), "conversations"),
    "answer last": (SHAREGPT, talk(("human", "q"), ("gpt", "a")), "conversations"),
    "nothing but the system": (SHAREGPT, talk(("system", "Be.")), "conversations"),
    "answer of the user": (SHAREGPT, as_sharegpt(ROW) | {"chosen": says("human", "A")}, "chosen"),
    "tags without tools": (
        SHAREGPT | {"tags": {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"}},
        talk(("human", "q"), ("function_call", "f()"), ("observation", "2")),
        "conversations",
    ),
    "openai, a tool last": (OPENAI, tools(("user", "q"), ("assistant", "a"), ("tool", "2")), "messages"),
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    return tmp_path


def described(folder, info):
    """Describe and open a data set, or write a whole dataset_info.json; its rows come from the test."""
    (folder / "pairs.json").write_text("[]")
    entry = {"file_name": "pairs.json", "ranking": True}
    text = info if isinstance(info, str) else json.dumps({"pairs": entry | info})
    (folder / "dataset_info.json").write_text(text)
    return open_source("pairs", folder)


def upstream(folder, row):
    """Convert a row with LlamaFactory's own code."""
    from llamafactory.data.converter import get_dataset_converter
    from llamafactory.data.parser import get_dataset_list

    attr = get_dataset_list(["pairs"], str(folder))[0]
    arguments = SimpleNamespace(media_dir=str(folder))
    return get_dataset_converter(attr.formatting, attr, arguments)(row)


@pytest.mark.parametrize("case", CASES)
def test_reads_what_training_reads(folder, case):
    entry, row = CASES[case]
    source = described(folder, entry)
    pair, theirs = read_pair(row, source), upstream(folder, row)
    sides = {"user": "user", "observation": "user", "assistant": "assistant", "function": "assistant"}
    assert list(pair.messages) == [(sides[turn["role"]], turn["content"]) for turn in theirs["_prompt"]]
    assert [pair.chosen, pair.rejected] == [turn["content"] for turn in theirs["_response"]]
    # For "openai", upstream adds a line of its own to every system prompt.
    assert pair.system == (theirs["_system"] or "").removesuffix("detailed thinking off").rstrip("\n")
    found = [str(source.find_image(image)) if isinstance(image, str) else image for image in pair.images]
    assert found == (theirs["_images"] or [])


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_what_training_cannot_use(folder, case):
    """Rows that upstream drops, makes something else of, or fails on; the column is named."""
    entry, row, column = REFUSED[case]
    source = described(folder, entry)
    with pytest.raises(RowError) as raised:
        read_pair(row, source)
    assert raised.value.column == column
    try:
        theirs = upstream(folder, row)
    except (KeyError, ValueError):
        return
    assert not theirs["_prompt"] or [turn["role"] for turn in theirs["_response"]] != ["assistant"] * 2


def test_published_columns_are_assumed_for_a_file(folder):
    (folder / "plain.jsonl").write_text(json.dumps(ROW))
    source = open_source(str(folder / "plain.jsonl"))
    assert read_pair(ROW, source) == read_pair(ROW, described(folder, {"columns": ALL}))
    assert source.media_dir == folder and not source.described


def test_scores_are_read_as_training_reads_them(folder):
    """The overlay's own reader of scores agrees on every value, good or bad."""
    from llamafactory.train.uni_dpo.data.scores import read_score as read_in_training
    from llamafactory.train.uni_dpo.errors import UniDPOError

    source = described(folder, {"columns": COLUMNS | {"score_chosen": "s"}})
    attr = SimpleNamespace(score_chosen="s", needed={"score_chosen": "pref_loss: uni_dpo"})
    for value in (2, "2.5", " 1e3 ", -0.0, 1e300, None, True, "high", float("nan"), [1], 10**400):
        try:
            expected = read_in_training({"s": value}, attr, "score_chosen", 0)
        except UniDPOError:
            with pytest.raises(RowError):
                read_score({"s": value}, source, "score_chosen")
        else:
            assert read_score({"s": value}, source, "score_chosen") == expected


def test_images_with_names_that_no_file_can_have(folder):
    """A long text or a zero byte in place of a path is a missing image, not a crash."""
    source = described(folder, {"columns": COLUMNS})
    (folder / "loop.png").symlink_to("loop.png")
    for name in ("x" * 5000, "a\0.png", "", "loop.png"):
        assert not os.path.isfile(source.find_image(name))


DESCRIBED = 'dataset_info.json, data set "pairs": .*'


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"file_name": "gone.json"}, DESCRIBED + "there is no file"),
        ({"file_name": None}, DESCRIBED + '"file_name" must be a text'),
        ({"hf_hub_url": "someone/something"}, DESCRIBED + 'only data sets with a "file_name"'),
        ({"hf_hub_url": 1}, DESCRIBED + '"hf_hub_url" must be a text'),
        ({"ranking": False}, DESCRIBED + '"ranking": true'),
        ({"formatting": "chatml"}, DESCRIBED + '"formatting" is "chatml"'),
        ({"columns": None}, DESCRIBED + '"columns" must be an object'),
        ({"columns": {"chosen": 1}}, DESCRIBED + '"columns" must be an object'),
        ({"tags": []}, DESCRIBED + '"tags" must be an object'),
        ('{"mine": {}}', 'no data set "pairs" in .*dataset_info.json, which describes mine'),
        ("[]", "must be an object"),
        ("{", "cannot read"),
        ("\ufeff{}", "cannot read"),
    ],
)
def test_descriptions_that_cannot_be_used(folder, info, message):
    """An entry, or a whole file."""
    with pytest.raises(DataError, match=message):
        described(folder, info)


def test_a_name_without_its_folder():
    """The commonest slip."""
    said = '^no file "my_pairs". If it is the name of a data set, add --dataset-dir FOLDER'
    with pytest.raises(DataError, match=said):
        open_source("my_pairs")


@pytest.mark.parametrize("limits", [(768 * 768, 32 * 32), (28 * 28, 28 * 28), (10_000, 4_000)])
@pytest.mark.parametrize(
    "size", [(1, 1), (31, 30), (768, 768), (769, 768), (5000, 3), (3, 700), (2000, 1500), (20_000, 40), (40, 9000)]
)
def test_images_are_scaled_as_training_scales_them(size, limits):
    """LlamaFactory's own code for any model, and for Qwen2-VL; scorers see the same pixels, and stop where it does."""
    from llamafactory.data.mm_plugin import MMPluginMixin, get_mm_plugin

    image, file = Image.radial_gradient("L").resize(size), io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    wanted = dict(zip(("image_max_pixels", "image_min_pixels"), limits, strict=True))
    pictures = Pictures(None, *limits)
    try:
        theirs = MMPluginMixin._preprocess_image(None, image, **wanted).size
    except ValueError:
        assert 0 in scale(*size, *limits)
        with pytest.raises(ImageError, match="too thin"):
            pictures.digest(file.getvalue())
        return
    assert scale(*size, *limits) == theirs
    plugin = get_mm_plugin("qwen2_vl", image_token="<|image_pad|>", video_token="<|video_pad|>")
    seen = plugin._preprocess_image(image, **wanted)
    assert stretch(*theirs) == seen.size
    if limits[0] > limits[1]:  # at equal ones training scales twice, to the size that scorers scale to at once
        assert pictures.load(file.getvalue()).tobytes() == seen.tobytes()
