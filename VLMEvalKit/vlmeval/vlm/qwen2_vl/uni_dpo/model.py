"""The class that a VLMEvalKit config names: `"class": "UniDPOQwen2VL"`."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ...base import BaseModel
from ..prompt import Qwen2VLPromptMixin
from .checkpoint import open_checkpoint
from .device import default_device, default_dtype
from .loop import adopt, in_their_loop, require_judge_on_command_line
from .media import Question
from .options import RULES, check_options, translated
from .prompt import PromptWriter, announce
from .versions import check_versions


# The data sets' own demand, as upstream's Qwen2-VL class meets it: small text needs enlarging.
MIN_PIXELS = {"OCRBench": 10 * 10 * 28 * 28}

Message = list[dict[str, str]]


class UniDPOQwen2VL(Qwen2VLPromptMixin, BaseModel):
    """Qwen2-VL and Qwen2.5-VL checkpoints, full or LoRA, with or without a GPU.

    Questions are worded by VLMEvalKit (`Qwen2VLPromptMixin`) and marked up as the checkpoint was trained. Nothing is
    loaded before the first answer.

    Args:
        model_path: A checkpoint folder, a LoRA output folder of LlamaFactory, or a name on the hub. "$MODEL" is
            filled in from the environment.
        base_path: For a LoRA folder: the full model, if it has moved since training.
        use_custom_prompt: Word questions as Qwen2-VL's authors do; False for the data set's own wording.
        system_prompt: None for the default one of training, "" for none with role markup.
        markup: "auto", "template", "roles" or "flat"; see `prompt.py`.
        min_pixels: Smaller images are scaled up to this many pixels; None for the checkpoint's limit.
        max_pixels: Larger images are scaled down to this many; None likewise. Training's limit is `image_max_pixels`.
        fps: Frames to take from each second of a video; not with nframe.
        nframe: Frames to take from a video.
        max_new_tokens: Longest answer, in tokens.
        do_sample: Sample instead of taking the likeliest token.
        temperature: For sampling.
        top_p: For sampling.
        top_k: For sampling; 0 for all tokens.
        repetition_penalty: 1 for none.
        post_process: Keep no more of an answer than is in its last LaTeX box, if it has one.
        device: "cuda", "cpu", or "auto" for one model over several GPUs; None for what is there.
        dtype: "bfloat16", "float16" or "float32"; None for what suits the device.
        attention: "flash_attention_2", "sdpa" or "eager"; None for the fastest that is installed.
        use_vllm: Answer with vLLM instead of transformers.
        tensor_parallel_size: vLLM: GPUs to split the model over; None for as many as fit.
        max_model_len: vLLM: longest prompt and answer together, in tokens.
        gpu_memory_utilization: vLLM: share of each GPU's memory to use.
        verbose: Print prompts and answers.
        published: Options of VLMEvalKit's Qwen2VLChat that are called otherwise; see `options.py`.

    Raises:
        CheckpointError: The checkpoint is missing, incomplete or of another architecture.
        OptionError: An option has a value that it cannot have.
        PromptError: A prompt would not show the model its images.
        VersionError: VLMEvalKit or transformers is too old or too new.
    """

    INSTALL_REQ = False
    INTERLEAVE = True
    VIDEO_LLM = True
    row = staticmethod(lambda line: line)  # the row of a data set for one that VLMEvalKit hands over

    def __init__(
        self,
        model_path: str,
        base_path: str | None = None,
        use_custom_prompt: bool = True,
        system_prompt: str | None = None,
        markup: str = "auto",
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        fps: float | None = 2.0,
        nframe: int | None = None,
        max_new_tokens: int = 2048,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        repetition_penalty: float = 1.0,
        post_process: bool = False,
        device: str | None = None,
        dtype: str | None = None,
        attention: str | None = None,
        use_vllm: bool = False,
        tensor_parallel_size: int | None = None,
        max_model_len: int | None = None,
        gpu_memory_utilization: float = 0.9,
        verbose: bool = False,
        **published: Any,
    ):
        """Look at the checkpoint; its weights are loaded for the first answer."""
        named = {name: value for name, value in locals().items() if name in RULES}
        check_versions()
        published = translated(published)
        check_options(named | published)
        require_judge_on_command_line()
        Qwen2VLPromptMixin.__init__(self, use_custom_prompt=use_custom_prompt)
        self.checkpoint = open_checkpoint(model_path, base_path)
        self.system_prompt, self.markup = system_prompt, markup
        self.min_pixels, self.max_pixels = min_pixels, max_pixels
        self.fps, self.nframe = fps, nframe  # VLMEvalKit's video data sets read and set these
        self.generation = {
            "max_new_tokens": max_new_tokens,
            "do_sample": do_sample and temperature > 0,
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k,
            "repetition_penalty": repetition_penalty,
        }
        self.device = device or default_device()
        self.dtype = dtype or default_dtype(self.device)
        self.attention = attention
        self.use_vllm = use_vllm
        self.vllm_options = {
            "tensor_parallel_size": tensor_parallel_size,
            "max_model_len": max_model_len,
            "gpu_memory_utilization": published.get("gpu_memory_utilization", gpu_memory_utilization),
        }
        self.post_process = post_process
        self.verbose = verbose

    @cached_property
    def processor(self) -> Any:
        """The checkpoint's tokenizer and image processor."""
        return self.checkpoint.load_processor()

    @cached_property
    def writer(self) -> PromptWriter:
        """What writes this checkpoint's prompts."""
        tokenizer = self.processor.tokenizer
        template = self.processor.chat_template or tokenizer.chat_template
        writer = PromptWriter(tokenizer, template, self.checkpoint.training, self.markup, self.system_prompt)
        announce(writer, self.checkpoint.folder, self.checkpoint.config)
        return writer

    @cached_property
    def backend(self) -> Any:
        """The loaded model: a `TransformersBackend` or a `VLLMBackend`."""
        if self.use_vllm:
            from .vllm_backend import VLLMBackend

            return VLLMBackend(self.checkpoint, self.dtype, self.generation, **self.vllm_options)
        from .transformers_backend import TransformersBackend

        return TransformersBackend(self.checkpoint, self.device, self.dtype, self.attention, self.generation)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything besides the checkpoint and the question itself that an answer depends on."""
        return {
            "markup": self.writer.markup,
            "generation": self.generation,
            "dtype": self.dtype,
            "backend": "vllm" if self.use_vllm else "transformers",
            **({"post_process": True} if self.post_process else {}),
        }

    def question(self, message: Message, dataset: str | None = None) -> Question:
        """Turn a message of VLMEvalKit into a prompt with its images and videos.

        Args:
            message: [{"type": "image" | "video" | "text", "value": path or text}, ...], in order.
            dataset: The data set's name, for the demands of some.

        Raises:
            PromptError: An image or a video would have no place in the prompt.
        """
        content = [
            {"type": "text", "text": item["value"]} if item["type"] == "text" else {"type": item["type"]}
            for item in message
        ]
        files = {kind: tuple(Path(i["value"]) for i in message if i["type"] == kind) for kind in ("image", "video")}
        asked = {"min_pixels": MIN_PIXELS.get(dataset, self.min_pixels), "max_pixels": self.max_pixels}
        asked = {name: value for name, value in asked.items() if value}
        rate = {"nframes": self.nframe} if self.nframe else {"fps": self.fps} if self.fps else {}
        size = self.processor.image_processor.size
        return Question(
            text=self.writer.write(content),
            images=files["image"],
            videos=files["video"],
            min_pixels=asked.get("min_pixels", size["shortest_edge"]),
            max_pixels=asked.get("max_pixels", size["longest_edge"]),
            sampling=rate | asked if files["video"] else {},
        )

    def set_dump_image(self, dump_image_func: Callable[[Any], list[str]]) -> None:
        """Take what writes a data set's pictures, and with it, from VLMEvalKit's own loop, the data set."""
        dataset = getattr(dump_image_func, "__self__", None)
        self.row = type(self).row if dataset is None else adopt(dataset)
        super().set_dump_image(dump_image_func if dataset is None else dataset.dump_image)

    def build_prompt(self, line: Any, dataset: str) -> Message:
        """Word a row of a data set."""
        return super().build_prompt(self.row(line), dataset)

    def generate_inner(self, message: Message, dataset: str | None = None) -> str:
        """Answer one message; this is what VLMEvalKit's own loop comes to.

        It goes on after any error, and ends as if all were well: so what is wrong with the checkpoint ends it here.
        """
        try:
            _ = self.writer, self.backend
        except ValueError as error:
            if in_their_loop():
                raise SystemExit(f"error: {error}") from error
            raise
        return self.answer([self.question(message, dataset)])[0]

    def generate_batch(self, messages: Sequence[Message | str], dataset: str | None = None) -> list[str]:
        """Answer several messages of one data set as one batch.

        Args:
            messages: In any form that VLMEvalKit's `generate` takes.
            dataset: The data set they are from.
        """
        return self.answer([self.question(self.preproc_content(message), dataset) for message in messages])

    def answer(self, questions: Sequence[Question]) -> list[str]:
        """Answer questions that `question` made, as one batch."""
        answers = self.backend.answer(questions) if questions else []
        if self.post_process:
            answers = [last_box(answer) for answer in answers]
        if self.verbose:
            for question, answer in zip(questions, answers, strict=True):
                print(f"{question.text}{answer}", flush=True)
        return answers


def last_box(answer: str) -> str:
    r"""Return what is in the last \boxed{} of an answer; all of it if there is none."""
    depth, text = 1, answer.rpartition(r"\boxed{")[2]
    for place, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if not depth:
            return text[:place]
    return text
