"""The class that a VLMEvalKit config names: `"class": "UniDPOVLM"`, or by its first name `UniDPOQwen2VL`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ....uni_dpo.errors import UniDPOError
from ...base import BaseModel
from .checkpoint import open_checkpoint
from .device import default_device, default_dtype
from .families import END_OF_THOUGHTS
from .loop import adopt, in_their_loop, require_judge_on_command_line
from .media import Question
from .options import SAMPLING, chosen_options
from .prompt import PromptWriter, announce
from .replies import Reply
from .versions import check_versions, engine_of


COMMON_SIDE = 28  # for a guess at the length of a prompt
VLLM_OPTIONS = ("tensor_parallel_size", "max_model_len", "gpu_memory_utilization")

Message = list[dict[str, str]]


class UniDPOVLM(BaseModel):
    """Checkpoints of the models in `families.py`, full or LoRA, with or without a GPU.

    Questions are worded by VLMEvalKit and marked up as the checkpoint was trained. Nothing is loaded before the first
    answer.

    Args:
        model_path: A checkpoint folder, a LoRA output folder of LlamaFactory, or a name on the hub. "$MODEL" is
            filled in from the environment.
        **options: See `options.py`.

    Raises:
        UniDPOError: The checkpoint is missing, incomplete or of another architecture; an option has a value that it
            cannot have; VLMEvalKit or transformers is too old or too new.
    """

    INSTALL_REQ = False
    INTERLEAVE = True
    VIDEO_LLM = True
    row = staticmethod(lambda line: line)  # the row of a data set for one that VLMEvalKit hands over

    def __init__(self, model_path: str, **options: Any):
        """Look at the checkpoint; its weights are loaded for the first answer."""
        check_versions()
        self.options = chosen = chosen_options({"model_path": model_path} | options)
        require_judge_on_command_line()
        BaseModel.__init__(self)
        self.checkpoint = open_checkpoint(chosen["model_path"], chosen["base_path"])
        self.family = self.checkpoint.family
        self.wording = self.family.wording_for(chosen["use_custom_prompt"])
        self.fps, self.nframe = chosen["fps"], chosen["nframe"]  # VLMEvalKit's video data sets read and set these
        self.generation = {name: chosen[name] for name in ("max_new_tokens", *SAMPLING, "repetition_penalty")}
        self.generation["do_sample"] = chosen["do_sample"] and chosen["temperature"] > 0
        self.device = chosen["device"] or default_device()
        self.dtype = chosen["dtype"] or default_dtype(self.device)
        self.use_vllm = chosen["use_vllm"]
        if self.use_vllm and self.family.not_in_vllm:
            raise UniDPOError(f"use_vllm: {self.family.not_in_vllm}; leave it out")
        if self.family.looks_ahead and chosen["attention"] == "flash_attention_2":
            raise UniDPOError(
                "attention: the tokens of one image may see each other in such a model, which flash_attention_2 "
                'leaves out; take the option out, or write "sdpa"'
            )
        self.verbose = chosen["verbose"]

    @cached_property
    def processor(self) -> Any:
        """The checkpoint's tokenizer and image processor."""
        return self.checkpoint.load_processor()

    @cached_property
    def writer(self) -> PromptWriter:
        """What writes this checkpoint's prompts."""
        tokenizer, asked = self.processor.tokenizer, self.options
        template = self.processor.chat_template or tokenizer.chat_template
        training = self.checkpoint.training
        writer = PromptWriter(tokenizer, self.family, template, training, asked["markup"], asked["system_prompt"])
        announce(writer, self.checkpoint.folder, self.checkpoint.config)
        return writer

    @cached_property
    def backend(self) -> Any:
        """The loaded model: a `TransformersBackend` or a `VLLMBackend`."""
        if self.use_vllm:
            from .vllm_backend import VLLMBackend

            wishes = {name: self.options[name] for name in VLLM_OPTIONS}
            return VLLMBackend(self.checkpoint, self.dtype, self.generation, **wishes)
        from .transformers_backend import TransformersBackend

        attention = self.options["attention"]
        return TransformersBackend(self.checkpoint, self.device, self.dtype, attention, self.generation)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything besides the checkpoint and the question itself that an answer depends on."""
        return {
            "markup": self.writer.markup,
            "generation": self.generation,
            "dtype": self.dtype,
            **engine_of(self.use_vllm),
            **{name: self.options[name] for name in ("attention", "max_model_len") if self.options[name]},
            **{name: True for name in ("post_process", "keep_thoughts") if self.options[name]},
        }

    def question(self, message: Message | str, dataset: str | None = None) -> Question:
        """Turn a message of VLMEvalKit into a prompt with its images and videos.

        Args:
            message: [{"type": "image" | "video" | "text", "value": path or text}, ...], in order, or in any other form
                that VLMEvalKit's `generate` takes.
            dataset: The data set's name, for the demands of some.

        Raises:
            UniDPOError: An image or a video would have no place in the prompt.
        """
        return self.worded(self.preproc_content(message), dataset)

    def worded(self, message: Message, dataset: str | None = None, system: str = "") -> Question:
        """Turn a message into a prompt; its texts are taken as they are, where VLMEvalKit would open addresses.

        Args:
            message: [{"type": "image" | "video" | "text", "value": path or text}, ...], in order.
            dataset: The data set's name, for the demands of some.
            system: A system prompt of this question's own; empty for that of all.

        Raises:
            UniDPOError: An image or a video would have no place in the prompt.
        """
        content = [
            {"type": "text", "text": item["value"]} if item["type"] == "text" else {"type": item["type"]}
            for item in message
        ]
        files = {kind: tuple(Path(i["value"]) for i in message if i["type"] == kind) for kind in ("image", "video")}
        limited = self.family.limited
        images = self.processor.image_processor if limited else None
        side = images.patch_size * images.merge_size if limited else COMMON_SIDE
        # The data set's own demand, as upstream's classes meet it: small text needs enlarging.
        enlarged = 10 * 10 * side**2 if limited and dataset == "OCRBench" else None
        smallest, largest = enlarged or self.options["min_pixels"], self.options["max_pixels"]
        asked = {name: value for name, value in (("min_pixels", smallest), ("max_pixels", largest)) if value}
        rate = {"nframes": self.nframe} if self.nframe else {"fps": self.fps} if self.fps else {}
        size = images.size if limited else {}
        return Question(
            text=(self.writer.with_system(system) if system else self.writer).write(content),
            images=files["image"],
            videos=files["video"],
            family=self.family,
            side=side,
            min_pixels=asked.get("min_pixels", size.get("shortest_edge")),
            max_pixels=asked.get("max_pixels", size.get("longest_edge")),
            sampling=rate | asked if files["video"] else {},
        )

    def set_dump_image(self, dump_image_func: Callable[[Any], list[str]]) -> None:
        """Take what writes a data set's pictures, and with it, from VLMEvalKit's own loop, the data set."""
        dataset = getattr(dump_image_func, "__self__", None)
        self.row = type(self).row if dataset is None else adopt(dataset)
        super().set_dump_image(dump_image_func if dataset is None else dataset.dump_image)

    def use_custom_prompt(self, dataset: str) -> bool:
        """Tell whether the model's authors word the questions of a data set otherwise than it does."""
        return self.wording is not None and self.wording.use_custom_prompt(dataset)

    def build_prompt(self, line: Any, dataset: str) -> Message:
        """Word a row of a data set."""
        self.wording.set_dump_image(self.dump_image_func)
        return self.wording.build_prompt(self.row(line), dataset)

    def generate_inner(self, message: Message, dataset: str | None = None) -> str:
        """Answer one message; VLMEvalKit's own loop calls this.

        It continues after any error, and ends as if all were well: so what is wrong with the checkpoint ends it here.
        """
        try:
            _ = self.writer, self.backend
        except ValueError as error:  # ours, or vLLM's
            if in_their_loop():
                raise SystemExit(f"error: {error}") from error
            raise
        return self.answer([self.question(message, dataset)])[0]

    def answer(self, questions: Sequence[Question]) -> list[str]:
        """Answer questions that `question` made, as one batch."""
        answers = self.backend.answer(questions) if questions else []
        if not self.options["keep_thoughts"]:
            answers = [after_thoughts(answer, self.family.end_of_thoughts) for answer in answers]
        if self.options["post_process"]:
            answers = [last_box(answer) for answer in answers]
        if self.verbose:
            for question, answer in zip(questions, answers, strict=True):
                print(f"{question.text}{answer}", flush=True)
        return answers

    def sample(
        self, questions: Sequence[Question], count: int, seed: int, stop: Sequence[str] = ()
    ) -> list[list[Reply]]:
        """Draw several answers to each of some questions that `question` or `worded` made, as one batch.

        With transformers the same batch and seed give the same answers; with vLLM nearly always.

        Args:
            questions: What is asked.
            count: Answers to each.
            seed: Of the draws of this batch.
            stop: Strings that end an answer and do not belong to it.
        """
        replies = self.backend.sample(questions, count, seed, stop) if questions else []
        if self.options["keep_thoughts"]:
            return replies
        end = self.family.end_of_thoughts
        return [[replace(reply, text=after_thoughts(reply.text, end)) for reply in each] for each in replies]


UniDPOQwen2VL = UniDPOVLM


def after_thoughts(answer: str, end: str = END_OF_THOUGHTS) -> str:
    """Return what comes after a model's thoughts; all of an answer that shows no end of any."""
    _, ended, rest = answer.rpartition(end)
    return rest.lstrip() if ended else answer


def last_box(answer: str) -> str:
    r"""Return what is in the last \boxed{} of an answer; all of it if there is none."""
    depth, text = 1, answer.rpartition(r"\boxed{")[2]
    for place, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if not depth:
            return text[:place]
    return text
