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
from typing import Any

from ..errors import DataError
from ..images import ImageError
from .checkpoints import Checkpoint
from .kinds import Classifier, YesNo
from .local import finite_score
from .pictures import Pictures
from .requests import Request, Scored, Unscored


IMAGES_PER_REQUEST = 24
AT_ONCE = 256  # requests handed over together; their images are in memory


class VLLMScorer:
    """Scores from vLLM's engine, by the words of a scorer for transformers."""

    runner: str

    def __init__(self, plain: YesNo | Classifier, tensor_parallel_size: int = 1):
        """Prepare; the engine starts when there is something to score.

        Args:
            plain: the scorer for transformers, whose model is never loaded.
            tensor_parallel_size: GPUs to split the model over.
        """
        self.plain, self.parallel = plain, tensor_parallel_size
        self.reads_images = plain.reads_images
        self.identity = plain.identity | {"backend": "vllm"}

    @property
    def checkpoint(self) -> Checkpoint:
        """The model."""
        return self.plain.checkpoint

    @property
    def pictures(self) -> Pictures:
        """How images are read."""
        return self.plain.pictures

    def options(self) -> dict[str, Any]:
        """Return further options of the engine."""
        return {}

    def answer(self, prompts: list[dict[str, Any]]) -> list[float]:
        """Return the score of each prompt."""
        raise NotImplementedError

    @cached_property
    def engine(self) -> Any:
        """The engine, started; it is killed when this process ends, however it ends.

        Raises:
            DataError: vLLM cannot run the model.
        """
        _set_defaults()
        from vllm import LLM

        try:
            engine = LLM(
                model=self.checkpoint.readable,
                runner=self.runner,
                dtype=self.plain.dtype,
                tensor_parallel_size=self.parallel,
                enforce_eager=self.plain.device == "cpu",  # compiling takes longer there than it saves
                limit_mm_per_prompt={"image": IMAGES_PER_REQUEST} if self.reads_images else None,
                seed=0,
                **self.options(),
            )
        except (ValueError, RuntimeError, OSError) as error:
            raise DataError(f"vLLM cannot run {self.checkpoint.folder}: {error}") from error
        self._guard = _end_with_this_process(multiprocessing.active_children())
        return engine

    def score(self, requests: Iterable[Request]) -> Iterator[Scored]:
        """Score answers, many at a time."""
        requests = iter(requests)
        while batch := list(itertools.islice(requests, AT_ONCE)):
            yield self._score_batch(batch)

    def _score_batch(self, batch: list[Request]) -> Scored:
        """Score a batch; requests that cannot be put to the model are left out first."""
        scored: Scored = []
        asked, prompts = [], []
        for request in batch:
            try:
                prompts.append(self._prompt(request))
                asked.append(request)
            except (ValueError, ImageError) as error:
                scored.append((request, Unscored(str(error).strip().split("\n")[0])))
        return scored + (self._answers(asked, prompts) if asked else [])

    def _answers(self, asked: list[Request], prompts: list[dict[str, Any]]) -> Scored:
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            return [(request, finite_score(score)) for request, score in zip(asked, self.answer(prompts), strict=True)]
        except ValueError as error:  # one of them is too long, which vLLM says of none by name
            if len(asked) == 1:
                return [(asked[0], Unscored(str(error).strip().split("\n")[0]))]
        except EngineDeadError as error:
            raise DataError("vLLM's engine broke down; what it wrote above says why.") from error
        half = len(asked) // 2
        return self._answers(asked[:half], prompts[:half]) + self._answers(asked[half:], prompts[half:])

    def _prompt(self, request: Request) -> dict[str, Any]:
        if len(request.images) > IMAGES_PER_REQUEST:
            raise ValueError(
                f"{len(request.images)} images, and {IMAGES_PER_REQUEST} are the most with --backend vllm"
            )
        tokens = self.checkpoint.tokenizer.encode(self.plain.text(request), add_special_tokens=False)
        prompt: dict[str, Any] = {"prompt_token_ids": tokens}
        if request.images:
            prompt["multi_modal_data"] = {"image": [self.pictures.load(image) for image in request.images]}
        return prompt


class VLLMYesNo(VLLMScorer):
    """A judge that says Yes or No. No other reply is allowed, so that both are among the log-probs that come back."""

    runner = "generate"

    def options(self) -> dict[str, Any]:
        """Return further options of the engine: log-probs after what is not allowed has been ruled out.

        Ruling out takes the same from all log-probs that are left, so their difference is what it was.
        """
        return {"logprobs_mode": "processed_logprobs", "max_logprobs": sum(map(len, self.plain.words))}

    def answer(self, prompts: list[dict[str, Any]]) -> list[float]:
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

    def answer(self, prompts: list[dict[str, Any]]) -> list[float]:
        """Return logits, or log-odds."""
        from vllm import PoolingParams

        plain = PoolingParams(use_activation=False)
        outputs = self.engine.classify(prompts, pooling_params=plain, use_tqdm=False)
        logits = [output.outputs.probs for output in outputs]
        return [values[0] if len(values) == 1 else values[1] - values[0] for values in logits]


def _logsumexp(values: Iterable[float]) -> float:
    values = list(values)
    highest = max(values)
    return highest + math.log(sum(math.exp(value - highest) for value in values))


def require_vllm() -> None:
    """Refuse to go on without vLLM.

    Raises:
        DataError: it is not installed here.
    """
    import importlib.util

    if importlib.util.find_spec("vllm") is None:
        raise DataError(
            f"--backend vllm: no vLLM for {sys.executable}. `bash scripts/setup.sh --vllm` of this repository makes "
            "an environment with it (.venv-vllm); run the command with its Python, or leave --backend out."
        )


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
