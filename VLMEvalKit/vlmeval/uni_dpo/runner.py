"""One data set, from its rows to its scores."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..vlm.qwen2_vl.uni_dpo.media import Question
from ..vlm.qwen2_vl.uni_dpo.model import UniDPOVLM
from ..vlm.qwen2_vl.uni_dpo.options import chosen_options
from ..vlm.qwen2_vl.uni_dpo.published import PUBLISHED, carries_record, of_published
from .batches import BatchSize, answer_all, build_questions, default_batch_size, fingerprint_of, key_of
from .benchmark import build_dataset
from .checks import why_not_scored
from .configs import CLASS
from .errors import UniDPOError
from .journal import Journal
from .judges import require_working
from .ranks import Ranks
from .reading import guarded
from .results import NOTES, Results


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
    """A model under evaluation, by its entry in a config; nothing of it is read before an answer is missing."""

    def __init__(self, name: str, options: dict[str, Any]):
        """Keep the options."""
        self.name = name
        self.published = options.get("class") == PUBLISHED
        self.options = {option: value for option, value in options.items() if option != "class"}
        self._ready: tuple[UniDPOVLM, str] | None = None

    def ready(self, ranks: Ranks) -> tuple[UniDPOVLM, str]:
        """Return the model and its fingerprint, which one rank works out for all."""
        if self._ready is None:
            if "model_path" not in self.options:
                raise UniDPOError(f"model {self.name}: its options lack model_path")
            options = of_published(self.options) if self.published else self.options
            chosen_options(options)
            if self.published and not carries_record(str(options["model_path"])):
                raise UniDPOError(
                    f"model {self.name}: {options['model_path']} has no record of our training, so {PUBLISHED} is"
                    f' VLMEvalKit\'s own class, for its run.py\n  write "class": "{CLASS}" to have it evaluated here'
                )
            model = ranks.together(lambda: UniDPOVLM(**options))
            if model.use_vllm and ranks.size > 1:
                raise UniDPOError("vLLM splits one model over the GPUs by itself: start without torchrun")
            fingerprint = ranks.shared(ranks.first(lambda: fingerprint_of(model)))
            self._ready = model, fingerprint
        return self._ready


def evaluate(model: Model, name: str, config: dict[str, Any], job: Job, ranks: Ranks) -> str:
    """Answer and score one data set with one model, as far as the mode asks for it; say in a few words what was done.

    Raises:
        Exception: Whatever goes wrong, on all ranks.
    """
    results = ranks.first_before_others(lambda: Results.of(job.work_dir, model.name, name))
    try:
        with guarded():
            ranks.first(lambda: results.report(status="pending", prediction_file=str(results.predictions)))
            # The first rank downloads what the others then find.
            dataset = ranks.first_before_others(lambda: build_dataset(name, config))
            done = "answered before" if job.mode == "eval" else _answer(model, dataset, results, job, ranks)
            if reason := "mode_infer" if job.mode == "infer" else why_not_scored(dataset):
                ranks.first(lambda: results.report(status="done", skip_reason=reason))
                return f"{done}, not scored ({reason})"
            ranks.first(lambda: _score(dataset, results, job))
            return f"{done}, scored in {results.folder}"
    except Exception as error:
        if ranks.rank == 0:
            results.report(status="done", error_message=str(error))
        raise


def _answer(model: Model, dataset: Any, results: Results, job: Job, ranks: Ranks) -> str:
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
    batch_size = BatchSize(job.batch_size) if job.batch_size else default_batch_size(qwen)
    started = time.monotonic()
    ranks.together(lambda: answer_all(qwen, questions, rows, journal, ranks, batch_size))
    seconds = time.monotonic() - started
    known = journal.read()
    answers = [known[row] for row in rows]
    ranks.first(lambda: results.keep(dataset, rows, answers, job.reuse))
    if job.judge.get("verbose") and ranks.rank == 0:
        for i, (question, answer) in enumerate(zip(questions[:SHOWN], answers, strict=False)):
            print(f"\n--- {results.model} on {results.data}, row {i}\n{question.text}{answer}", flush=True)
    return f"{len(rows)} rows, {missing} answered in {seconds:.0f} s" if missing else f"{len(rows)} rows reused"


def _score(dataset: Any, results: Results, job: Job) -> None:
    """Let VLMEvalKit score, show its scores, and note them where it notes its own."""
    require_working(job.judge)
    scores = results.score(dataset, job.judge, job.reuse)
    if scores is not None:
        print(f"\n{results.model} on {results.data}:\n{scores}", flush=True)
    results.report(status="done", judge_model=job.judge["model"], metrics_source=scores, dataset_obj=dataset)


@contextmanager
def alone(home: Path, ranks: Ranks) -> Iterator[None]:
    """Keep a second run away from a model's folder, and clear what a killed run left locked.

    The system gives our lock back when a process dies; that of VLMEvalKit's `status.json` is a file that stays, and
    for which it would wait for ever.

    Raises:
        UniDPOError: Another run holds the lock.
    """

    def take() -> None:
        home.mkdir(parents=True, exist_ok=True)
        file = stack.enter_context((home / ".lock").open("w"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UniDPOError(
                f"another run is at work in {home}: wait for it, or choose another --work-dir"
            ) from error
        for lock in home.glob("**/status.json*.lock"):
            lock.unlink()

    with ExitStack() as stack:
        ranks.first(take)
        yield
