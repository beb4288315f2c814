"""The same models in vLLM's offline engine, which batches and pages by itself. Written for vLLM 0.25.1.

Texts, images and the tokens of Yes and No come from the same code as for transformers; only the call differs. vLLM
starts further processes, so a program that uses it needs `if __name__ == "__main__":`.
"""

import itertools
import math
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cached_property
from importlib.util import find_spec
from typing import Any

from ..errors import DataError
from .checkpoints import Checkpoint, misnamed, weight_names
from .kinds import BatchScorer, TransformersScorer
from .requests import Request


IMAGES_PER_REQUEST = 24
LOOK_AHEAD = ("gemma3", "gemma4")
AT_ONCE = 256  # requests handed over together; their images are in memory


class VLLMScorer(BatchScorer):
    """Scores from vLLM's engine, by the words of a scorer for transformers.

    Both kinds have `ask`, which returns the score of each prompt.
    """

    runner: str
    options: dict[str, Any] = {}  # further ones of the engine

    def __init__(self, plain: TransformersScorer, tensor_parallel_size: int):
        """Prepare, with a scorer whose model is never loaded; the engine starts when there is something to score."""
        _set_defaults()  # before anything imports vLLM
        self.plain, self.parallel = plain, tensor_parallel_size
        self.reads_images = plain.reads_images
        self.identity = plain.identity | {"backend": "vllm"}

    @cached_property
    def engine(self) -> Any:
        """The engine, started; it is killed when this process ends, however it ends."""
        from vllm import LLM

        try:
            engine = LLM(
                model=self.plain.checkpoint.readable,
                runner=self.runner,
                dtype=self.plain.dtype,
                tensor_parallel_size=self.parallel,
                enforce_eager=self.plain.device == "cpu",  # compiling takes longer there than it saves
                skip_mm_profiling=self.plain.device == "cpu",  # it takes minutes there, and nothing depends on it
                limit_mm_per_prompt={"image": IMAGES_PER_REQUEST} if self.reads_images else None,
                seed=0,
                **self.options,
            )
        except (ValueError, RuntimeError, OSError) as error:
            raise DataError(f"vLLM cannot run {self.plain.checkpoint.folder}: {error}") from error
        self._guard = _end_with_this_process(multiprocessing.active_children())
        return engine

    def batches(self, requests: Iterator[Request]) -> Iterator[list[Request]]:
        """Hand over many at a time."""
        while batch := list(itertools.islice(requests, AT_ONCE)):
            yield batch

    def scores(self, batch: list[Request]) -> list[float]:
        """Return the score of each request of a batch; vLLM's ValueError does not say which one is too long."""
        from vllm.v1.engine.exceptions import EngineDeadError

        prompts = [self._prompt(request) for request in batch]
        try:
            return self.ask(prompts)
        except EngineDeadError as error:
            raise DataError("vLLM's engine broke down; what it wrote above says why.") from error

    def _prompt(self, request: Request) -> dict[str, Any]:
        if len(request.images) > IMAGES_PER_REQUEST:
            raise ValueError(
                f"{len(request.images)} images, and {IMAGES_PER_REQUEST} are the most with --backend vllm"
            )
        tokens = self.plain.checkpoint.tokenizer.encode(self.plain.text(request), add_special_tokens=False)
        prompt: dict[str, Any] = {"prompt_token_ids": tokens}
        if request.images:
            prompt["multi_modal_data"] = {"image": [self.plain.pictures.load(image) for image in request.images]}
        return prompt


class VLLMYesNo(VLLMScorer):
    """A judge that says Yes or No. No other reply is allowed, so that both are among the log-probs that come back."""

    runner = "generate"

    @property
    def options(self) -> dict[str, Any]:
        """Log-probs after what is not allowed has been ruled out, which takes the same from all that are left."""
        return {"logprobs_mode": "processed_logprobs", "max_logprobs": sum(map(len, self.plain.words))}

    def ask(self, prompts: list[dict[str, Any]]) -> list[float]:
        """Return log-odds of Yes and No, each in all its forms."""
        from vllm import SamplingParams

        yes, no = self.plain.words
        sampling = SamplingParams(
            max_tokens=1, temperature=0.0, allowed_token_ids=yes + no, logprobs=len(yes + no), detokenize=False
        )
        found = []
        for output in self.engine.generate(prompts, sampling, use_tqdm=False):
            logprobs = {token: value.logprob for token, value in output.outputs[0].logprobs[0].items()}
            found.append(_logsumexp(logprobs[token] for token in yes) - _logsumexp(logprobs[token] for token in no))
        return found


class VLLMClassifier(VLLMScorer):
    """A classifier: its logits, before the function that would make them probabilities."""

    runner = "pooling"

    def ask(self, prompts: list[dict[str, Any]]) -> list[float]:
        """Return logits, or log-odds."""
        from vllm import PoolingParams

        plain = PoolingParams(use_activation=False)
        outputs = self.engine.classify(prompts, pooling_params=plain, use_tqdm=False)
        logits = [output.outputs.probs for output in outputs]
        return [values[0] if len(values) == 1 else values[1] - values[0] for values in logits]


def with_vllm(plain: TransformersScorer, tensor_parallel_size: int) -> VLLMScorer:
    """Return the scorer that has vLLM do what another would do with transformers, or refuse what vLLM cannot."""
    if plain.kind == "classifier" and plain.reads_images:
        raise DataError("--backend vllm takes classifiers of text only. Leave --backend out.")
    if plain.checkpoint.config.model_type in LOOK_AHEAD:
        raise DataError(
            "--backend vllm: the tokens of an image see each other in Gemma 3 and in large Gemma 4. vLLM leaves that "
            "out of Gemma 3 on a CPU, and nothing else was tried. Leave --backend out."
        )
    _refuse_dropped_biases(plain.checkpoint)
    if misnamed(plain.checkpoint.folder):
        raise DataError(
            f"--backend vllm: the weights of {plain.checkpoint.folder} have names that only transformers 5 reads. "
            "Load the model there and save it by save_pretrained(FOLDER, save_original_format=False), or leave "
            "--backend out."
        )
    return {"yes-no": VLLMYesNo, "classifier": VLLMClassifier}[plain.kind](plain, tensor_parallel_size)


def _refuse_dropped_biases(checkpoint: Checkpoint) -> None:
    """Refuse a GLM-4.1V whose config does not state what transformers takes for granted."""
    config = checkpoint.config
    if config.model_type != "glm4v" or getattr(config.get_text_config(), "attention_bias", None):
        return
    if any(name.endswith(".self_attn.q_proj.bias") for name in weight_names(checkpoint.folder)):
        raise DataError(
            f"--backend vllm: of {checkpoint.folder} vLLM would drop the biases of attention. Write "
            '"attention_bias": true into text_config of its config.json, as the published ones have it, or leave '
            "--backend out."
        )


def require_vllm() -> None:
    """Refuse to continue without vLLM."""
    if find_spec("vllm") is None:
        raise DataError(
            f"--backend vllm: no vLLM for {sys.executable}. `bash scripts/setup.sh --vllm` of this repository makes "
            "an environment with it (.venv-vllm); run the command with its Python, or leave --backend out."
        )


def _logsumexp(values: Iterable[float]) -> float:
    values = list(values)
    highest = max(values)
    return highest + math.log(sum(math.exp(value - highest) for value in values))


def _set_defaults() -> None:
    """Choose for vLLM what the environment leaves open."""
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # CUDA does not survive a fork
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # or it reports every start to its makers
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB, read by the build for CPUs alone
    if "OMP_NUM_THREADS" in os.environ:  # that build would bind a thread to every core all the same
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")


def _end_with_this_process(engine: list[Any]) -> subprocess.Popen:
    """Have vLLM's processes killed when this one ends, by a third that waits for the end of a pipe held here.

    A run that is killed could not see to that itself, and its engine would keep the GPU's memory for ever.
    """
    wait = "import os, sys; sys.stdin.read(); [os.kill(int(pid), 9) for pid in sys.argv[1:]]"
    command = [sys.executable, "-c", wait, *(str(process.pid) for process in engine)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
