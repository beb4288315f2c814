"""Rows to prompts, prompts to batches, batches to answers."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from ..vlm.qwen2_vl.uni_dpo.media import Question
from ..vlm.qwen2_vl.uni_dpo.model import UniDPOVLM
from .benchmark import require_own_files
from .errors import UniDPOError, reason_of
from .journal import Journal
from .ranks import Ranks


NAMED = 8  # rows that a message names


@dataclass(frozen=True)
class BatchSize:
    """How much to hand to the model at once.

    Attributes:
        rows: At most so many rows.
        tokens: And rows that, each as long as the longest prompt among them, have at most so many tokens, if there is
            more than one; None for no such limit.
    """

    rows: int
    tokens: int | None = None


def default_batch_size(model: UniDPOVLM) -> BatchSize:
    """Return what suits the model and the machine: short prompts, as most benchmarks have, share a call by dozens."""
    if model.use_vllm:
        return BatchSize(256)  # it batches by itself; this only says how often answers reach the disk
    return BatchSize(64, 16384 if torch.cuda.is_available() else 8192)


def build_questions(model: UniDPOVLM, dataset: Any, quiet: bool) -> list[Question]:
    """Word every row of a data set as VLMEvalKit's own loop does, and write its images to the disk.

    The model rewords the questions of the data sets it knows, unless the data set insists on its own wording.

    Raises:
        UniDPOError: Rows make no prompt, as when their picture is no whole one.
    """
    name = dataset.dataset_name
    model.dump_image_func = dataset.dump_image
    reword = not getattr(dataset, "force_use_dataset_prompt", False) and model.use_custom_prompt(name)
    _ = model.writer  # what is wrong with the checkpoint is wrong with no row
    questions, failures = [], []
    for i in tqdm(range(len(dataset.data)), desc=f"{name}: prompts", unit="row", disable=quiet):
        row = dataset.data.iloc[i]
        try:
            require_own_files(row)
            message = model.build_prompt(row, dataset=name) if reword else dataset.build_prompt(row)
            question = model.question(message, name)
            _ = question.length  # opens the pictures
            questions.append(question)
        except Exception as error:  # whatever VLMEvalKit raises over a cell
            place = f"data set {name}, row {dataset.data.index[i]} (the first is 0) makes no prompt"
            failures.append(f"{place}: {reason_of(error)}\n  correct the row in its TSV")
            cause = error
        if len(failures) == NAMED:
            break
    if failures:
        raise UniDPOError("\n".join(failures)) from cause
    return questions


def key_of(fingerprint: str, question: Question) -> str:
    """Return what an answer is filed under: a hash of the weights, the settings, and all that was asked."""
    return hashlib.sha256(f"{fingerprint} {question.digest()}".encode()).hexdigest()


def fingerprint_of(model: UniDPOVLM) -> str:
    """Return a hash of a model's weights and settings."""
    settings = json.dumps(model.settings, sort_keys=True)
    return hashlib.sha256(f"{model.checkpoint.fingerprint()} {settings}".encode()).hexdigest()


def batches_of(questions: Sequence[Question], size: BatchSize) -> list[list[int]]:
    """Return batches of positions: rows of like length, the longest first, so that want of memory is known at once.

    They are the same for every run and any number of ranks: a row is always answered in the same company, and so with
    the same rounding.
    """
    batches: list[list[int]] = []
    for i in sorted(range(len(questions)), key=lambda i: -questions[i].length):
        tokens = questions[batches[-1][0]].length * (len(batches[-1]) + 1) if batches else 0
        if not batches or len(batches[-1]) == size.rows or (size.tokens and tokens > size.tokens):
            batches.append([])
        batches[-1].append(i)
    return batches


def answer_all(
    model: UniDPOVLM,
    questions: Sequence[Question],
    rows: Sequence[tuple[str, str]],
    journal: Journal,
    ranks: Ranks,
    batch_size: BatchSize,
) -> None:
    """Answer this rank's share of the batches, but for those whose answers are in the journal already.

    Args:
        model: Loaded when the first batch needs it.
        questions: One for each row.
        rows: Index and key of each row.
        journal: Where answers go, batch by batch.
        ranks: Who else works.
        batch_size: What makes a batch.
    """
    known = journal.read()
    mine = batches_of(questions, batch_size)[ranks.rank :: ranks.size]
    open_batches = [batch for batch in mine if any(rows[i] not in known for i in batch)]
    total, left = sum(map(len, mine)), sum(map(len, open_batches))
    if not open_batches:
        return
    title = f"{journal.name}: answers" + (f" (rank {ranks.rank} of {ranks.size})" if ranks.size > 1 else "")
    with (
        journal.appending() as add,
        tqdm(total=total, initial=total - left, desc=title, unit="row", position=ranks.rank) as bar,
    ):
        for batch in open_batches:
            answers = model.answer([questions[i] for i in batch])
            add((*rows[i], answer) for i, answer in zip(batch, answers, strict=True))
            bar.update(len(batch))
