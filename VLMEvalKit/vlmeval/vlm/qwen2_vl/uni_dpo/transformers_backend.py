"""Answers from transformers, on a GPU or without one."""

import warnings
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, __version__

from ....uni_dpo.errors import UniDPOError, in_context
from .checkpoint import Checkpoint, weight_shapes
from .device import default_attention
from .families import QWEN2_VL, Family
from .media import Question, load_image, load_video
from .portable import has_own_head, readable, written_by
from .replies import Reply, up_to
from .shared_prompts import read_once


class TransformersBackend:
    """A loaded checkpoint that answers batches of questions.

    Args:
        checkpoint: What to load; a LoRA adapter is merged into its base.
        device: "cuda", "cuda:1", "cpu", or "auto" to spread one model over several GPUs.
        dtype: "float32", "bfloat16" or "float16".
        attention: "flash_attention_2", "sdpa" or "eager"; None for the fastest that is installed.
        generation: Options of transformers' `generate`.

    Raises:
        UniDPOError: The weights do not fill the model.
    """

    def __init__(
        self, checkpoint: Checkpoint, device: str, dtype: str, attention: str | None, generation: dict[str, Any]
    ):
        """Load processor and weights."""
        self.checkpoint, self.folder = checkpoint, checkpoint.folder
        self.processor = checkpoint.load_processor()
        attention = attention or ("sdpa" if checkpoint.family.looks_ahead else default_attention(device, dtype))
        self.model = load_model(checkpoint, device, getattr(torch, dtype), attention)
        # Sampling options beside greedy decoding are warned about for every batch.
        unused = {} if generation.get("do_sample") else {"temperature": None, "top_p": None, "top_k": None}
        self.generation = generation | unused
        if getattr(self.model.generation_config, "prefill_chunk_size", None):  # its chunks lose the pictures
            self.model.generation_config.prefill_chunk_size = None

    def answer(self, questions: Sequence[Question]) -> list[str]:
        """Answer questions as one batch, in halves if the GPU's memory does not do for all.

        Args:
            questions: At least one, all with the same pixel limits.
        """
        return self._in_parts(questions, lambda part: list(map(self.text, self._generate(part))))

    def sample(self, questions: Sequence[Question], count: int, seed: int, stop: Sequence[str]) -> list[list[Reply]]:
        """Draw `count` answers to each question, all in one batch; see `UniDPOVLM.sample`."""
        torch.manual_seed(seed)
        asked = [question for question in questions for _ in range(count)]  # a batch too large is halved anywhere
        # With beams `generate` would repeat questions otherwise than we do, and answers would hardly differ.
        more = {"num_beams": 1} | ({"stop_strings": list(stop)} if stop else {})
        replies = self._in_parts(
            asked, lambda part: [self._reply(tokens, stop) for tokens in self._generate(part, **more)]
        )
        return [replies[start : start + count] for start in range(0, len(replies), count)]

    def _in_parts(self, questions: Sequence[Question], work: Callable[[Sequence[Question]], list[Any]]) -> list[Any]:
        """Do a batch; with and without images apart where that has to be, and in halves if it is too large."""
        if self.checkpoint.family.apart and len({bool(question.images) for question in questions}) == 2:
            seeing = iter(self._in_parts([question for question in questions if question.images], work))
            blind = iter(self._in_parts([question for question in questions if not question.images], work))
            return [next(seeing if question.images else blind) for question in questions]
        try:
            return work(questions)
        except torch.OutOfMemoryError:
            if len(questions) == 1:
                raise
        torch.cuda.empty_cache()
        middle = len(questions) // 2
        return self._in_parts(questions[:middle], work) + self._in_parts(questions[middle:], work)

    @torch.inference_mode()
    def _generate(self, questions: Sequence[Question], **more: Any) -> list[list[int]]:
        """Return the tokens of an answer to each question, padded on the right to one length."""
        questions, each = _together(questions) if self.generation.get("do_sample") else (questions, 1)
        inputs = self.inputs(questions).to(self.model.device)
        more["num_return_sequences"] = each
        with (
            in_context(f"cannot answer with the weights and the generation_config.json of {self.folder}"),
            read_once(self.model, inputs, each),
        ):
            tokens = self.model.generate(**inputs, **self.generation, **more, tokenizer=self.processor.tokenizer)
            return tokens[:, inputs["input_ids"].shape[1] :].tolist()

    def _reply(self, tokens: list[int], stop: Sequence[str]) -> Reply:
        known = self.model.generation_config
        ends = known.eos_token_id if isinstance(known.eos_token_id, list) else [known.eos_token_id]
        place = next((i for i, token in enumerate(tokens) if token in (*ends, known.pad_token_id)), len(tokens))
        text = self.text(tokens[:place])
        before = up_to(text, stop)
        return Reply(before, place, place < self.generation["max_new_tokens"] or before != text)

    def text(self, tokens: list[int]) -> str:
        """Return an answer without special tokens, but with the last end of thoughts, which Gemma 4 has for one."""
        tokenizer, end, parts = self.processor.tokenizer, self.checkpoint.family.end_of_thoughts, [tokens]
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        mark = tokenizer.get_added_vocab().get(end)
        if mark in tokens and not tokenizer.decode([mark], **options):
            place = len(tokens) - tokens[::-1].index(mark)
            parts = [tokens[:place], tokens[place:]]
        return end.join(tokenizer.decode(part, **options) for part in parts)

    def inputs(self, questions: Sequence[Question]) -> Any:
        """Return what the model reads: token ids and mask (batch x length, padded on the left), and pixel patches."""
        images = [[load_image(path, question) for path in question.images] for question in questions]
        if not self.checkpoint.family.apart:
            images = sum(images, [])
        videos = [load_video(path, question) for question in questions for path in question.videos]
        frames = {"do_sample_frames": False, "do_resize": False} | _rates(videos, questions[0].family)
        with in_context(f"cannot prepare questions with the tokenizer and image processor of {self.folder}"):
            return self.processor(
                text=[question.text for question in questions],
                images=images if any(images) else None,
                videos=[video for video, *_ in videos] or None,
                images_kwargs=questions[0].limits | self.checkpoint.image_options,
                videos_kwargs=frames if videos else {},
                add_special_tokens=False,  # a prompt has all that belong to it
                padding=True,
                return_tensors="pt",
            )


def _together(asked: Sequence[Question]) -> tuple[Sequence[Question], int]:
    """Return questions without repeats, and how often each is asked; as they are, if that differs."""
    groups = [list(group) for _, group in groupby(asked, key=id)]
    if len(set(map(len, groups))) != 1:
        return asked, 1
    return [group[0] for group in groups], len(groups[0])


def _rates(videos: Sequence[tuple[Any, float, dict[str, Any]]], family: Family) -> dict[str, list]:
    """Say of each video how many frames a second it has, and which frames they are."""
    if __version__.startswith("4.") and family is QWEN2_VL:
        return {"fps": [rate for _, rate, _ in videos]}
    return {"video_metadata": [known for *_, known in videos]}


def load_model(checkpoint: Checkpoint, device: str, dtype: torch.dtype, attention: str) -> Any:
    """Load the model of the architecture that `config.json` names, its adapters merged, ready to generate.

    Raises:
        UniDPOError: Weights are missing, which transformers would fill with random numbers.
    """
    with in_context(f"cannot load the weights of {checkpoint.base}"):
        folder = readable(checkpoint.base)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        seeing, blind = AutoModelForImageTextToText.from_pretrained, AutoModelForCausalLM.from_pretrained
        load = seeing if checkpoint.family.pictures else blind
        model, report = load(
            folder,
            config=say_untied(config) if has_own_head(checkpoint.base) else config,
            torch_dtype=dtype,
            attn_implementation=attention,
            device_map="auto" if device == "auto" else None,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    for kind, what in {"missing_keys": "lacks weights", "unexpected_keys": "has weights of another model"}.items():
        if names := sorted(report[kind]):
            raise UniDPOError(
                f"{checkpoint.base} {what}: {', '.join(names[:3])} and {max(0, len(names) - 3)} more\n"
                f"  transformers {written_by(checkpoint.base) or '?'} saved it, {__version__} reads it; is it whole, "
                "with the config.json that belongs to it?"
            )
    for adapter in checkpoint.adapters:
        with in_context(f"cannot load the adapter of {adapter}"):
            from peft import PeftModel

            if any("lm_head" in name or "embed_tokens" in name for name in weight_shapes(adapter)):
                _untie(model)
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
        _refuse_lost_weights(adapter, told)
    return (model if device == "auto" else model.to(device)).eval()


def _refuse_lost_weights(adapter: Any, told: Sequence[warnings.WarningMessage]) -> None:
    """Refuse an adapter whose weights found no place in the model: peft warns, and leaves the base as it was."""
    for warning in told:
        if "missing adapter keys" in str(warning.message):
            raise UniDPOError(
                f"weights of the adapter {adapter} have names that this model does not know: {warning.message}"[:400]
                + f"\n  it was saved with another version of transformers than {__version__}; merge it with that one"
            )
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def say_untied(config: Any) -> Any:
    """Have a config say that the output layer is not the embeddings, wherever transformers 4 or 5 look for it."""
    for part in (config, config.get_text_config()):
        part.tie_word_embeddings = False
    return config


def _untie(model: Any) -> None:
    """Give a loaded model an output layer of its own, equal to its embeddings so far."""
    say_untied(model.config)
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head.weight is embeddings.weight:
        head.weight = torch.nn.Parameter(embeddings.weight.detach().clone(), requires_grad=False)
