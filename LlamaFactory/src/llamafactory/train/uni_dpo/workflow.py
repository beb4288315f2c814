"""`run_dpo` of the overlay: the only place that swaps upstream's names.

Runs that do not ask for our loss or our trainer go straight to upstream's `run_dpo`. For the others our classes stand
in for upstream's while upstream's own `run_dpo` runs, and are taken out again afterwards, whatever happens, so that a
later run in the same process finds LlamaFactory as it was.
"""

import functools
import importlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import datasets

from ...extras import logging
from .errors import AlreadyTrained
from .option_checks import check_run
from .versions import misfit


if TYPE_CHECKING:
    from transformers import Seq2SeqTrainingArguments, TrainerCallback

    from ...hparams import DataArguments, FinetuningArguments, ModelArguments


COUNTS = "HF_UPDATE_DOWNLOAD_COUNTS"


def run_dpo(
    model_args: "ModelArguments",
    data_args: "DataArguments",
    training_args: "Seq2SeqTrainingArguments",
    finetuning_args: "FinetuningArguments",
    callbacks: list["TrainerCallback"] | None = None,
) -> None:
    """Train with `stage: dpo`; the signature is upstream's, which `llamafactory.train.tuner` calls.

    Raises:
        UniDPOError: an option or the data cannot be used with our trainer; raised before the model loads.
        NonFiniteError: training produced a NaN or an infinity.
    """
    upstream = _module("train.dpo.workflow")
    with ExitStack() as swaps:
        try:
            _swap_in(swaps, model_args, data_args, training_args, finetuning_args)
        except (AttributeError, ImportError) as error:
            raise misfit(error) from error
        except AlreadyTrained as done:
            logging.get_logger(__name__).info_rank0(str(done))
            return
        upstream.run_dpo(model_args, data_args, training_args, finetuning_args, callbacks)

    if finetuning_args.uses_uni_dpo and training_args.do_train and training_args.should_save:
        from .plots import plot_run

        plot_run(training_args.output_dir)
    if finetuning_args.uses_our_trainer:
        # LlamaFactory's next step is to part; gloo may abort a rank that parts while another is still at work.
        training_args.distributed_state.wait_for_everyone()


def _swap_in(
    swaps: ExitStack,
    model_args: "ModelArguments",
    data_args: "DataArguments",
    training_args: "Seq2SeqTrainingArguments",
    finetuning_args: "FinetuningArguments",
) -> None:
    """Let our classes stand in until `swaps` is left, as far as this run asks for them."""
    if finetuning_args.uses_our_trainer:
        from .checkpoints import prepare_output
        from .run_record import learning_options

        check_run(model_args, training_args, finetuning_args)
        options = learning_options(model_args, data_args, training_args, finetuning_args)
        trains = not getattr(finetuning_args, "stops_after_caches", False)
        prepare_output(training_args, options if trains else None, finetuning_args.names_checkpoint)
        swaps.enter_context(our_trainer(data_args, options))
        _keep_stream_batches_apart(data_args, training_args)
    if finetuning_args.uses_uni_dpo:
        swaps.enter_context(explained_models())
    if finetuning_args.uses_scores:
        swaps.enter_context(scored_data(finetuning_args.scores_needed_by))
    if finetuning_args.uses_caches:
        swaps.enter_context(caches(model_args, data_args, training_args, finetuning_args))


def _keep_stream_batches_apart(data_args: "DataArguments", training_args: "Seq2SeqTrainingArguments") -> None:
    """Let every rank read its own part of a stream.

    By default accelerate has the first rank read batches and deal them out row by row, but the image patches of a
    vision-language batch have no row per pair.
    """
    if data_args.streaming and training_args.accelerator_config.dispatch_batches is None:
        training_args.accelerator_config.dispatch_batches = False


@contextmanager
def our_trainer(data_args: "DataArguments", options: dict[str, Any] | None = None) -> Iterator[None]:
    """Train with `UniDPOTrainer` and what it needs; upstream imports its trainer late, so it finds ours.

    Args:
        data_args: of the run.
        options: what is kept with checkpoints as the options that they were trained with.
    """
    from .collate import PairCollator
    from .prompts import PromptOnceProcessor
    from .tokenized import checked_against_source
    from .trainer import UniDPOTrainer

    with ExitStack() as stack:
        stack.enter_context(_uncounted())
        with_options = functools.partial(UniDPOTrainer, options=options)
        stack.enter_context(_swapped("train.dpo.trainer", CustomDPOTrainer=with_options))
        names = (data_args.dataset or [], data_args.eval_dataset or [])
        collator = functools.partial(PairCollator, dataset_names=names)
        get_dataset = checked_against_source(_module("train.dpo.workflow").get_dataset)
        stack.enter_context(
            _swapped("train.dpo.workflow", PairwiseDataCollatorWithPadding=collator, get_dataset=get_dataset)
        )
        stack.enter_context(_swapped("data.loader", PairwiseDatasetProcessor=PromptOnceProcessor))
        yield


@contextmanager
def scored_data(needed_by: str = "pref_loss: uni_dpo") -> Iterator[None]:
    """Carry scores from the data set to the batch; `needed_by` is the option that messages give as the reason."""
    from . import data, reading

    loader = _module("data.loader")
    swaps = [
        _swapped("data.parser", DatasetAttr=data.ScoredDatasetAttr),
        _swapped("data.converter", DATASET_CONVERTERS=data.SCORED_CONVERTERS),
        _swapped(
            "data.loader",
            PairwiseDatasetProcessor=data.ScoredPairwiseProcessor,
            get_dataset_list=reading.with_labels(loader.get_dataset_list, needed_by),
            _load_single_dataset=reading.explaining_failures(loader._load_single_dataset),
            align_dataset=reading.with_checked_scores(loader.align_dataset),
        ),
        _swapped(
            "train.dpo.workflow",
            get_dataset=reading.refusing_unscored(_module("train.dpo.workflow").get_dataset, needed_by),
        ),
    ]
    with ExitStack() as stack:
        for swap in swaps:
            stack.enter_context(swap)
        yield


@contextmanager
def explained_models() -> Iterator[None]:
    """Name the checkpoint that does not load."""
    from . import loading

    workflow = _module("train.dpo.workflow")
    with _swapped(
        "train.dpo.workflow",
        load_tokenizer=loading.explaining_tokenizer(workflow.load_tokenizer),
        load_model=loading.explaining_model(workflow.load_model),
        create_ref_model=loading.explaining_reference(workflow.create_ref_model),
    ):
        yield


@contextmanager
def caches(*run: Any) -> Iterator[None]:
    """Keep reference log-probs or image features in folders; `run` is the four groups of options of `run_dpo`.

    Raises:
        UniDPOError: a folder belongs to another run.
    """
    from .caches.plan import CachePlan

    workflow, trainer = _module("train.dpo.workflow"), _module("train.dpo.trainer")
    plan, get_dataset, create = CachePlan(*run), workflow.get_dataset, workflow.create_ref_model

    def identified(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return plan.identify(get_dataset(*args, **kwargs))

    def reference_if_needed(*args: Any, **kwargs: Any) -> Any:
        return create(*args, **kwargs) if plan.needs_reference_model else None

    with ExitStack() as stack:
        ours = _swapped("train.dpo.workflow", get_dataset=identified, create_ref_model=reference_if_needed)
        stack.enter_context(ours)
        with_plan = functools.partial(trainer.CustomDPOTrainer, caches=plan)
        stack.enter_context(_swapped("train.dpo.trainer", CustomDPOTrainer=with_plan))
        yield


@contextmanager
def _uncounted() -> Iterator[None]:
    """Keep `datasets` from telling its makers' server of every file it loads, unless the environment asks for it."""
    counts = datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
    try:
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = counts and COUNTS in os.environ
        yield
    finally:
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = counts


@contextmanager
def _swapped(module_name: str, **replacements: Any) -> Iterator[None]:
    """Replace names of a LlamaFactory module and put the old ones back, also after an exception."""
    module = _module(module_name)
    originals = {name: getattr(module, name) for name in replacements}
    try:
        for name, replacement in replacements.items():
            setattr(module, name, replacement)
        yield
    finally:
        for name, original in originals.items():
            setattr(module, name, original)


def _module(name: str) -> Any:
    # Looked up when a run starts: importing these at the top would go in a circle through `train.dpo`.
    return importlib.import_module(f"llamafactory.{name}")
