"""One data set, from its rows to its scores."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from .. import dataset as datasets
from ..vlm.qwen2_vl.uni_dpo.media import Question
from ..vlm.qwen2_vl.uni_dpo.model import UniDPOQwen2VL
from ..vlm.qwen2_vl.uni_dpo.options import OptionError, check_options, translated
from ..vlm.qwen2_vl.uni_dpo.published import PUBLISHED, carries_record, of_published
from . import RunError
from .batches import answer_all, build_questions, default_batch_size, fingerprint_of, key_of
from .checks import require_rows
from .configs import CLASS
from .failures import in_context
from .journal import Journal
from .pictures import keep_as_written, require_own_copy
from .ranks import Ranks
from .reading import as_written
from .results import NOTES, Results, clear_stale_lock
from .untrusted import guarded


SHOWN = 3  # rows of each data set that --verbose prints


@dataclass(frozen=True)
class Job:
    """What the command line asks for, apart from models and data sets.

    Attributes:
        work_dir: Where results go.
        mode: "all", "infer" (no scores) or "eval" (no answers).
        reuse: Whether answers in the journal count.
        judge: The judge's name as "model", and its options.
        batch_size: Rows in a batch; None for what suits the machine.
    """

    work_dir: Path
    mode: str
    reuse: bool
    judge: dict[str, Any]
    batch_size: int | None


class Model:
    """A model under evaluation; nothing of it is read before an answer is missing.

    Args:
        name: Its name in file names.
        options: Its entry in a config: arguments of `UniDPOQwen2VL`, perhaps with a class.
    """

    def __init__(self, name: str, options: dict[str, Any]):
        """Take note of the options."""
        self.name = name
        self.published = options.get("class") == PUBLISHED
        self.options = {option: value for option, value in options.items() if option != "class"}
        self._ready: tuple[UniDPOQwen2VL, str] | None = None

    def ready(self, ranks: Ranks) -> tuple[UniDPOQwen2VL, str]:
        """Return the model and its fingerprint, which one rank works out for all."""
        if self._ready is None:
            if "model_path" not in self.options:
                raise OptionError(f"model {self.name}: its options lack model_path")
            options = of_published(self.options) if self.published else self.options
            check_options(translated(options))
            if self.published and not carries_record(str(options["model_path"])):
                raise RunError(
                    f"model {self.name}: {options['model_path']} has no record of our training, so {PUBLISHED} is"
                    f' VLMEvalKit\'s own class, for its run.py\n  write "class": "{CLASS}" to have it evaluated here'
                )
            model = ranks.together(lambda: UniDPOQwen2VL(**options))
            if model.use_vllm and ranks.size > 1:
                raise RunError("vLLM splits one model over the GPUs by itself: start without torchrun")
            fingerprint = ranks.shared(ranks.first(lambda: fingerprint_of(model)))
            self._ready = model, fingerprint
        return self._ready


def evaluate(model: Model, name: str, config: dict[str, Any], job: Job, ranks: Ranks) -> str:
    """Answer and score one data set with one model, as far as the mode asks for it.

    Args:
        model: The model.
        name: The data set's name.
        config: How to build it; empty for what VLMEvalKit makes of the name.
        job: What is asked for.
        ranks: Who works.

    Returns:
        What was done, in a few words.

    Raises:
        Exception: Whatever goes wrong, on all ranks.
    """
    results = ranks.first_before_others(lambda: Results.of(job.work_dir, model.name, name))
    try:
        with guarded():
            return answer_and_score(model, name, config, results, job, ranks)
    except Exception as error:
        if ranks.rank == 0:
            results.report(status="done", error_message=str(error))
        raise


def answer_and_score(model: Model, name: str, config: dict[str, Any], results: Results, job: Job, ranks: Ranks) -> str:
    """Do what `evaluate` is for."""
    ranks.first(lambda: results.report(status="pending", prediction_file=str(results.predictions)))
    # The first rank downloads what the others then find.
    dataset = ranks.first_before_others(lambda: build_dataset(name, config))
    done = "answered before" if job.mode == "eval" else answer(model, dataset, results, job, ranks)
    if job.mode == "infer" or "answer" not in dataset.data:
        reason = "mode_infer" if job.mode == "infer" else "no_answers_in_data_set"
        ranks.first(lambda: results.report(status="done", skip_reason=reason))
        return f"{done}, not scored ({reason})"
    ranks.first(lambda: score(dataset, results, job))
    return f"{done}, scored in {results.folder}"


def answer(model: Model, dataset: Any, results: Results, job: Job, ranks: Ranks) -> str:
    """See to it that every row has an answer and that they are in the prediction file; say how fast it went."""
    qwen, fingerprint = model.ready(ranks)

    def prepared() -> tuple[list[Question], list[tuple[str, str]]]:
        questions = build_questions(qwen, dataset, quiet=ranks.rank > 0)
        named = zip(dataset.data["index"], questions, strict=True)
        return questions, [(str(index), key_of(fingerprint, question)) for index, question in named]

    questions, rows = ranks.first_before_others(prepared)
    journal = Journal(results.home / NOTES, results.data, ranks.rank)
    if not job.reuse:
        ranks.first(lambda: [path.unlink() for path in journal.files])
    known = journal.read()
    missing = sum(row not in known for row in rows)
    batch_size = job.batch_size or default_batch_size(qwen)
    started = time.monotonic()
    ranks.together(lambda: answer_all(qwen, questions, rows, journal, ranks, batch_size))
    seconds = time.monotonic() - started
    known = journal.read()
    answers = [known[row] for row in rows]
    ranks.first(lambda: results.keep(dataset, rows, answers, job.reuse))
    if job.judge.get("verbose") and ranks.rank == 0:
        print(shown(results, questions, answers), flush=True)
    return f"{len(rows)} rows, {missing} answered in {seconds:.0f} s" if missing else f"{len(rows)} rows reused"


def shown(results: Results, questions: list[Question], answers: list[str]) -> str:
    """Return the first prompts with their answers."""
    pairs = list(zip(questions, answers, strict=True))[:SHOWN]
    title = f"{results.model} on {results.data}, row"
    return "\n".join(f"\n--- {title} {i}\n{asked.text}{answer}" for i, (asked, answer) in enumerate(pairs))


def score(dataset: Any, results: Results, job: Job) -> None:
    """Let VLMEvalKit score, show its scores, and note them where it notes its own."""
    scores = results.score(dataset, job.judge, job.reuse)
    if scores is not None:
        print(f"\n{results.model} on {results.data}:\n{scores}", flush=True)
    results.report(status="done", judge_model=job.judge["model"], metrics_source=scores, dataset_obj=dataset)


def build_dataset(name: str, config: dict[str, Any]) -> Any:
    """Build a data set from a config's entry, or from its name alone.

    Raises:
        RunError: VLMEvalKit has no such data set, it is of a kind that has no prompts to batch, or it has rows that
            cannot be scored.
    """
    options = dict(config)
    kind = options.pop("class", None)
    if kind is not None and not isinstance(getattr(datasets, str(kind), None), type):
        raise RunError(f"data set {name}: vlmeval.dataset has no class {kind}")
    require_own_copy(options.get("dataset", name))
    with (
        in_context(f"data set {name} cannot be read", "is its entry in the config right, and its TSV whole?"),
        as_written(kind) as last,
    ):
        dataset = getattr(datasets, kind)(**options) if kind else datasets.build_dataset(name)
    if dataset is None:
        raise RunError(f"data set {name}: VLMEvalKit does not know it, and the folder LMUData has no {name}.tsv")
    if not isinstance(getattr(dataset, "data", None), pd.DataFrame) or "index" not in dataset.data:
        raise RunError(f"data set {name}: vlmeval.dataset.{kind or name} makes no table of questions with an index")
    if dataset.MODALITY == "VIDEO" or dataset.TYPE == "MT":
        raise RunError(
            f"data set {name}: videos and dialogues go through VLMEvalKit's own run.py, with the same class"
        )
    with in_context(f"data set {name} cannot be looked through", "is its TSV whole?"):
        require_rows(name, last[0] if last else None, dataset)
    keep_as_written(dataset)
    return dataset


@contextmanager
def alone(home: Path, ranks: Ranks) -> Iterator[None]:
    """Keep a second run away from a model's folder.

    Raises:
        RunError: There is another one.
    """
    with ExitStack() as stack:
        ranks.first(lambda: take(home, stack))
        yield


def take(home: Path, stack: ExitStack) -> None:
    """Lock a model's folder until the stack is left, and clear what a killed run left locked.

    The system gives this lock back when a process dies; that of VLMEvalKit's `status.json` is a file that stays.

    Raises:
        RunError: Another run holds it.
    """
    home.mkdir(parents=True, exist_ok=True)
    file = stack.enter_context((home / ".lock").open("w"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RunError(f"another run is at work in {home}: wait for it, or choose another --work-dir") from error
    clear_stale_lock(home)
