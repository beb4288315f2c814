"""Tokenising a prompt once gives the tokens that upstream gives, and processes no image."""

import pytest
from pairs import command_line, make_rows, options, write_dataset
from PIL import Image

from llamafactory.data.processor import PairwiseDatasetProcessor
from llamafactory.data.template import get_template_and_fix_tokenizer
from llamafactory.hparams import DataArguments, ModelArguments
from llamafactory.model import load_tokenizer
from llamafactory.train.uni_dpo.data.prompts import PromptOnceProcessor
from llamafactory.train.uni_dpo.errors import UniDPOError


def user(text):
    return {"role": "user", "content": text}


def answer(text):
    return {"role": "assistant", "content": text}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, paths = tmp_path_factory.mktemp("pictures"), []
    for i, size in enumerate([(56, 56), (112, 56), (84, 140)]):
        paths.append(str(folder / f"{i}.png"))
        Image.new("RGB", size, (80 * i, 120, 40)).save(paths[-1])
    return paths


def examples(pictures, video):
    """Rows as upstream's converters make them: no image, one, two; several turns; the same prompt twice in a row."""
    one, long = user("<image>What is this?"), answer("A long answer. " * 6)
    rows = [
        ([one], [answer("A box."), answer("No idea.")], pictures[:1], []),
        ([one], [long, answer("No idea.")], pictures[1:2], []),  # another image with the same words
        ([user("Add 2 and 2.")], [answer("4"), answer("5")], [], []),
        ([user("Add 2 and 2.")], [answer("four"), answer("five")], [], []),
        ([user("<image>First?"), answer("Yes."), user("<image>Second?")], [answer("a"), long], pictures[1:], []),
        ([user("<video>What moves?")], [answer("Nothing."), answer("All.")], [], [str(video)]),
        # An answer with a placeholder takes part in the numbering of images.
        ([user("Which?")], [answer("<image> this"), answer("<image> that")], pictures[:1], []),
    ]
    names = ("_prompt", "_response", "_images", "_videos")
    columns = {name: [row[place] for row in rows] for place, name in enumerate(names)}
    empty = [None] * len(rows)
    return columns | {"_system": ["Be brief."] + empty[1:], "_tools": empty, "_audios": empty}


def encoded(model, template, rows, ours, cutoff_len=2048):
    data_args = DataArguments(template=template, cutoff_len=cutoff_len)
    module = load_tokenizer(ModelArguments(model_name_or_path=str(model)))
    template = get_template_and_fix_tokenizer(module["tokenizer"], data_args)
    kind = PromptOnceProcessor if ours else PairwiseDatasetProcessor
    return kind(template, module["tokenizer"], module["processor"], data_args).preprocess_dataset(rows)


# `qwen3` writes thoughts into answers and, with an answer in hand, into its prompt.
@pytest.mark.parametrize("template", ["qwen2_vl", "qwen3", "llama2", "default"])
def test_same_tokens_as_upstream(tiny_model, pictures, video, template):
    rows = examples(pictures, video)
    if template != "qwen2_vl":
        rows = {name: column[2:4] for name, column in rows.items()}
    assert encoded(tiny_model, template, rows, ours=True) == encoded(tiny_model, template, rows, ours=False)


def test_cut_prompts_are_the_same_too(tiny_model, pictures, video):
    """Without images, where a cut does no harm."""
    rows = {name: column[2:4] for name, column in examples(pictures, video).items()}
    rows["_prompt"] = [[user("word " * 100)]] * 2
    ours, upstream = (encoded(tiny_model, "qwen2_vl", rows, ours, cutoff_len=32) for ours in (True, False))
    assert ours == upstream and len(ours["chosen_input_ids"][0]) == 32


def test_no_image_is_processed(tiny_model, pictures, video, monkeypatch):
    from transformers import Qwen2VLImageProcessor, Qwen2VLImageProcessorFast

    seen = []
    for kind in {Qwen2VLImageProcessor, Qwen2VLImageProcessorFast}:  # one class, in transformers 5

        def watch(self, images, *args, original=kind.preprocess, **kwargs):
            seen[-1] += len(images)
            return original(self, images, *args, **kwargs)

        monkeypatch.setattr(kind, "preprocess", watch)
    rows = {name: column[:5] for name, column in examples(pictures, video).items()}
    for ours in (True, False):
        seen.append(0)
        encoded(tiny_model, "qwen2_vl", rows, ours)
    assert seen == [0, 8]


def test_a_cut_within_an_image_is_refused(tiny_model, pictures, video):
    rows = {name: column[4:5] for name, column in examples(pictures, video).items()}
    with pytest.raises(UniDPOError, match="cutoff_len: 40` cuts the prompt within an image"):
        encoded(tiny_model, "qwen2_vl", rows, ours=True, cutoff_len=40)


def test_the_row_of_the_cut_is_named(tiny_model, tmp_path):
    """On the command line, from a tokenising process of its own."""
    rows = make_rows(tmp_path / "data", 6)
    rows[4]["instruction"] = "Word. " * 90 + "<image>"
    write_dataset(tmp_path / "data", rows)
    run = options(tiny_model, tmp_path / "data", tmp_path / "out", cutoff_len=96, preprocessing_num_workers=2)
    done = command_line(run, tmp_path / "run.yaml")
    assert done.returncode != 0
    assert 'Error: Data set "pairs", row 4 (the first is 0): `cutoff_len: 96` cuts the prompt' in done.stderr
    assert not (tmp_path / "out" / "model.safetensors").exists()
