"""Tokens of images by their sizes alone: what upstream makes of the pixels, for every family and kind of file."""

import io

import pytest
from family_checkpoints import checkpoint_of
from PIL import Image

from llamafactory.data.processor import PairwiseDatasetProcessor
from llamafactory.data.template import get_template_and_fix_tokenizer
from llamafactory.hparams import DataArguments, ModelArguments
from llamafactory.model import load_tokenizer
from llamafactory.train.uni_dpo.data.prompts import PromptOnceProcessor


TEMPLATES = {
    **{"qwen3_vl": "qwen3_vl_nothink", "qwen3_5": "qwen3_5_nothink", "glm4v": "glm4v", "internvl": "intern_vl"},
    **{"gemma3": "gemma3", "gemma4": "gemma4", "llava": "llava", "llava_next": "llava_next"},
}
# Wide and narrow beyond what upstream allows, smaller and larger than its limits, and of no multiple of a patch.
SIZES = [(56, 56), (113, 57), (84, 140), (900, 700), (701, 902), (13, 400), (5, 5), (3000, 12), (300, 200), (200, 300)]
OPTIONS = [{}, {"image_max_pixels": 50_000, "crop_to_patches": True}]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A picture of each size, in turn as PNG, JPEG in grey, JPEG, WebP, and with a palette."""
    folder, paths = tmp_path_factory.mktemp("sizes"), []
    kinds = [("png", "RGBA"), ("jpg", "L"), ("jpg", "RGB"), ("webp", "RGB"), ("gif", "P")]
    for number, size in enumerate(SIZES):
        ending, mode = kinds[number % len(kinds)]
        paths.append(str(folder / f"{number}.{ending}"))
        Image.new("RGB", size, (20 * number, 120, 40)).convert(mode).save(paths[-1])
    return paths


def as_bytes(path):
    with open(path, "rb") as file:
        return file.read()


def rows_of(images):
    """Each image alone, then two in one row."""
    images = [[image] for image in images] + [images[3:5]]
    count = len(images)
    prompts = [[{"role": "user", "content": "<image>" * len(row) + "What is this?"}] for row in images]
    answers = [[{"role": "assistant", "content": text} for text in ("A box.", "No idea.")]] * count
    empty = [None] * count
    names = {"_videos": empty, "_audios": empty, "_system": empty, "_tools": empty}
    return {"_prompt": prompts, "_response": answers, "_images": images} | names


def encoded(model, template, rows, kind, **sizes):
    data_args = DataArguments(template=template, cutoff_len=100_000)
    module = load_tokenizer(ModelArguments(model_name_or_path=str(model), **sizes))
    template = get_template_and_fix_tokenizer(module["tokenizer"], data_args)
    found = kind(template, module["tokenizer"], module["processor"], data_args).preprocess_dataset(rows)
    return {name: values for name, values in found.items() if name != "images"}


@pytest.mark.parametrize("sizes", OPTIONS, ids=["as it is", "small, in tiles"])
@pytest.mark.parametrize("kind", ["qwen2_vl", *TEMPLATES])
def test_same_tokens_as_by_pixels(kind, sizes, tiny_model, files, tmp_path):
    model = tiny_model if kind == "qwen2_vl" else checkpoint_of(kind, tiny_model, tmp_path / "model")
    rows, template = rows_of(files), TEMPLATES.get(kind, kind)
    ours = encoded(model, template, rows, PromptOnceProcessor, **sizes)
    assert ours == encoded(model, template, rows, PairwiseDatasetProcessor, **sizes)
    assert ours == encoded(model, template, rows, PromptOnceProcessor, **sizes)  # with what it remembers
    if kind not in ("gemma3", "llava") and (kind != "internvl" or sizes):  # there any size is as many tokens
        assert len({len(ids) for ids in ours["chosen_input_ids"][:-1]}) > 1


def test_images_in_whatever_form(tiny_model, files):
    contents = list(map(as_bytes, files))
    forms = {
        "bytes": contents,
        "datasets' bytes": [{"bytes": content, "path": None} for content in contents],
        "datasets' paths": [{"bytes": None, "path": path} for path in files],
        "decoded": [Image.open(io.BytesIO(content)) for content in contents],
    }
    expected = encoded(tiny_model, "qwen2_vl", rows_of(files), PairwiseDatasetProcessor)
    for name, images in forms.items():
        assert encoded(tiny_model, "qwen2_vl", rows_of(images), PromptOnceProcessor) == expected, name


@pytest.mark.parametrize("number", [0, 1, 3], ids=["png", "jpg", "webp"])
def test_a_file_that_ends_too_early_is_found(number, tiny_model, files, tmp_path):
    """Sizes stand in the first bytes; a training that meets the rest would stop after hours."""
    content, cut = as_bytes(files[number]), tmp_path / "cut"
    cut.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises((OSError, SyntaxError)):
        encoded(tiny_model, "qwen2_vl", rows_of([str(cut), *files]), PromptOnceProcessor)


def test_a_file_that_has_changed_is_read_anew(tiny_model, tmp_path):
    path, lengths = tmp_path / "a.png", []
    for size in ((56, 56), (112, 112)):
        Image.new("RGB", size).save(path)
        rows = rows_of([str(path)] * 5)
        lengths.append(len(encoded(tiny_model, "qwen2_vl", rows, PromptOnceProcessor)["chosen_input_ids"][0]))
    assert lengths[0] < lengths[1]


def test_foreign_processors_see_pixels(tiny_model, files, monkeypatch):
    """Code that comes with a checkpoint may count as it likes."""
    from transformers import Qwen2VLImageProcessor

    monkeypatch.setattr(Qwen2VLImageProcessor, "__module__", "transformers_modules.stranger")
    seen, original = [], Qwen2VLImageProcessor.preprocess
    watch = lambda self, images, *args, **options: seen.append(images) or original(self, images, *args, **options)  # noqa: E731
    monkeypatch.setattr(Qwen2VLImageProcessor, "preprocess", watch)
    assert encoded(tiny_model, "qwen2_vl", rows_of(files), PromptOnceProcessor) and len(seen) == len(files) + 1
