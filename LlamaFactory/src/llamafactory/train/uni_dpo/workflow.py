"""`run_dpo` of the overlay: the only place that swaps upstream's names.

Runs that do not ask for our loss or our trainer go straight to upstream's `run_dpo`. For the others our classes stand
in for upstream's while upstream's own `run_dpo` runs, and are taken out again afterwards, whatever happens, so that a
later run in the same process finds LlamaFactory as it was.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from ...extras import logging
from .errors import AlreadyTrained
from .options.checks import check_run
from .swaps import caches, explained_models, our_trainer, scored_data, upstream_module
from .upstream.versions import misfit, noting_versions


if TYPE_CHECKING:
    from transformers import Seq2SeqTrainingArguments, TrainerCallback

    from ...hparams import DataArguments, FinetuningArguments, ModelArguments


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
    upstream = upstream_module("train.dpo.workflow")
    with ExitStack() as swaps:
        try:
            _swap_in(swaps, model_args, data_args, training_args, finetuning_args)
        except (AttributeError, ImportError) as error:
            raise misfit(error) from error
        except AlreadyTrained as done:
            logging.get_logger(__name__).info_rank0(str(done))
            return
        if finetuning_args.uses_our_trainer:
            swaps.enter_context(noting_versions())
            swaps.enter_context(_interruptible(training_args))
        upstream.run_dpo(model_args, data_args, training_args, finetuning_args, callbacks)

    if finetuning_args.uses_our_trainer:
        if training_args.do_train and training_args.should_save:
            _end(training_args.output_dir, finetuning_args.our_loss is not None)
        # LlamaFactory's next step is to part; gloo may abort a rank that parts while another is still at work.
        training_args.distributed_state.wait_for_everyone()


def _end(output: str, pictures: bool) -> None:
    from .files.run_record import mark_ended
    from .record.plots import plot_run

    if pictures:
        plot_run(output)
    mark_ended(output)


def _swap_in(
    swaps: ExitStack,
    model_args: "ModelArguments",
    data_args: "DataArguments",
    training_args: "Seq2SeqTrainingArguments",
    finetuning_args: "FinetuningArguments",
) -> None:
    """Let our classes stand in until `swaps` is left, as far as this run asks for them."""
    if finetuning_args.uses_our_trainer:
        from .files.checkpoints import prepare_output
        from .files.run_record import learning_options

        check_run(model_args, data_args, training_args, finetuning_args)
        options = learning_options(model_args, data_args, training_args, finetuning_args)
        trains = not getattr(finetuning_args, "stops_after_caches", False)
        prepare_output(training_args, options if trains else None, finetuning_args.names_checkpoint)
        swaps.enter_context(our_trainer(data_args, model_args, finetuning_args, options))
        swaps.enter_context(explained_models())
        _keep_stream_batches_apart(data_args, training_args)
    if finetuning_args.numbers_needed or finetuning_args.logs_pairs:
        swaps.enter_context(scored_data(finetuning_args.numbers_needed))
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
def _interruptible(training_args: "Seq2SeqTrainingArguments") -> Iterator[None]:
    """Tell Ctrl-C in a line, and leave with the exit status that shells give it."""
    from .files.checkpoints import next_start

    try:
        yield
    except KeyboardInterrupt:
        if training_args.process_index == 0:
            print(f"\nInterrupted; {next_start(training_args.output_dir)}.", file=sys.stderr, flush=True)
        sys.exit(130)
