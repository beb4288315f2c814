"""What is left of a pair after `cutoff_len`, found out with the run's own tokenizer, processor and template.

LlamaFactory's code does the work. Images are not opened again: what a Qwen-VL's processor makes of one, in tokens,
depends on its size alone.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import DataError
from ..sources import Source, listed
from .plan import Checked
from .training import Options


Size = tuple[int, int]  # width, height


def check_tokens(checked: Checked, measure: "Measure", progress: bool) -> None:
    """Add findings about what is cut from every row that has no errors so far."""
    options, found = measure.options, checked.found
    for number, source in enumerate(found.sources):
        convert, wrong = converter(source, options), found.rows(number)
        for row, value in enumerate(source.values(f"{source.name}, tokens" if progress else "")):
            if row in wrong:
                continue
            images = listed(source.column(value, "images"))
            sizes = [checked.media.size_of(image, source.media_dir) for image in images]
            try:
                problems = list(measure(convert(value), sizes).problems(options.data.cutoff_len))
            except Exception as error:  # whatever it is, training stops with it
                problems = [("tokens-fail", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")]
            for kind, message in problems:
                found.add(kind, number, row, None, message)


class Measure:
    """Tokenises pairs whole, remembering what images of a size become."""

    def __init__(self, options: Options):
        """Load what training would."""
        from llamafactory.train.uni_dpo.data.prompts import PromptOnceProcessor

        tokenizer, processor, template = load(options)
        self.options = options
        plugin = template.mm_plugin
        self.image_id = None if plugin.image_token is None else tokenizer.convert_tokens_to_ids(plugin.image_token)
        plugin._get_mm_inputs = _Grids(plugin)
        whole = copy.copy(options.data)
        whole.cutoff_len = 1 << 40  # the cut comes afterwards, to see what it takes
        self.processor = PromptOnceProcessor(template, tokenizer, processor, whole)

    def __call__(self, example: dict[str, Any], images: list[Size]) -> "Lengths":
        """Return the tokens of a converted pair, whose images have these sizes."""
        texts = (example[name] for name in ("_prompt", "_response", "_system", "_tools"))
        media = (example["_videos"] or [], example["_audios"] or [])
        chosen, labels, rejected, _ = self.processor._encode_data_example(*texts, images, *media)
        answer = next((place for place, label in enumerate(labels) if label != -100), len(labels))
        return Lengths(chosen[:answer], (chosen[answer:], rejected[answer:]), self.image_id)


@dataclass
class Lengths:
    """The tokens of a pair before anything is cut: of the prompt, and of both answers."""

    prompt: list[int]
    answers: tuple[list[int], list[int]]
    image_id: int | None

    def problems(self, cutoff_len: int) -> Iterator[tuple[str, str]]:
        """Yield what is lost when LlamaFactory cuts the pair: kinds of findings, with messages."""
        from llamafactory.data.processor.processor_utils import infer_seqlen

        longest = max(map(len, self.answers))
        source_len, target_len = infer_seqlen(len(self.prompt), longest, cutoff_len)
        lost = self.prompt[source_len:].count(self.image_id)
        if lost:
            yield "image-tokens-cut", f"{lost} of {self.prompt.count(self.image_id)} image tokens"
        elif source_len < len(self.prompt):
            yield "prompt-cut", f"{source_len} of {len(self.prompt)} tokens are left"
        chosen, rejected = (answer[:target_len] for answer in self.answers)
        if chosen == rejected:
            yield "answers-cut-alike", f"the first {target_len} tokens"
        elif target_len < longest:
            yield "answer-cut", f"{target_len} of {longest} tokens are left"


class _Grids:
    """Stands in for a plugin's processing of images, for images that are only sizes.

    A Qwen-VL's processor makes a grid of patches of an image, and can count them without one. Its count is used if it
    is right for the first size; otherwise blank images are processed, once for each size if there are grids.
    """

    def __init__(self, plugin: Any):
        self.process, self.scale = plugin._get_mm_inputs, plugin._regularize_images
        self.grids: dict[Size, list[int]] = {}
        self.has_grids, self.counts_right = True, False

    def __call__(self, images: list[Size], videos: list, audios: list, processor: Any, *more: Any) -> dict[str, Any]:
        import torch

        alone = images and not videos and not audios
        for size in set(images) - self.grids.keys() if alone and self.has_grids else ():
            count = self._count(size, processor)
            if count and self.counts_right:
                self.grids[size] = [1, count, 1]
                continue
            made = self.process([_blank(size)], [], [], processor, *more)
            self.has_grids = "image_grid_thw" in made
            if not self.has_grids:
                break
            grid = made["image_grid_thw"].tolist()[0]
            self.counts_right = not self.grids and math.prod(grid) == count
            self.grids[size] = grid
        if not alone or not self.has_grids:
            return self.process([_blank(size) for size in images], videos, audios, processor, *more)
        return {"image_grid_thw": torch.tensor([self.grids[size] for size in images])}

    def _count(self, size: Size, processor: Any) -> int:
        if not hasattr(processor.image_processor, "get_number_of_image_patches"):
            return 0
        limits = {name: getattr(processor, name) for name in ("image_max_pixels", "image_min_pixels")}
        width, height = self.scale([_blank(size)], **limits)["images"][0].size
        return processor.image_processor.get_number_of_image_patches(height, width, {})


def _blank(size: Size) -> Any:
    from PIL import Image

    return Image.new("1", size)


def load(options: Options) -> tuple[Any, Any, Any]:
    """Return the tokenizer, processor and template of a run."""
    from transformers.utils import logging

    from llamafactory.data.template import get_template_and_fix_tokenizer
    from llamafactory.model import load_tokenizer

    logging.set_verbosity_error()
    try:
        loaded = load_tokenizer(copy.copy(options.model))
        template = get_template_and_fix_tokenizer(loaded["tokenizer"], options.data)
    except (OSError, ValueError) as error:
        reason = f"{error.__cause__ or error}".splitlines()[0]
        raise DataError(
            f"cannot load the tokenizer of {options.model.model_name_or_path}, template {options.data.template}: "
            f"{reason} Give a local folder, or leave tokens out with --no-tokens."
        ) from error
    template = copy.copy(template)  # it is LlamaFactory's only one, and its plugin will be told to remember
    template.mm_plugin = copy.copy(template.mm_plugin)
    return loaded["tokenizer"], loaded["processor"], template


def converter(source: Source, options: Options) -> Any:
    """Return LlamaFactory's converter for the rows of a data set; absent columns are empty, as in a loaded one."""
    from llamafactory.data.converter import get_dataset_converter
    from llamafactory.data.parser import DatasetAttr

    attr = DatasetAttr("file", dataset_name=source.name)
    attr.join({"formatting": source.formatting, "ranking": True, "columns": source.columns, "tags": source.tags})
    attr.images = None  # their sizes are known
    used = dict.fromkeys(source.columns.values())
    convert = get_dataset_converter(source.formatting, attr, options.data)
    return lambda row: convert(used | row)
