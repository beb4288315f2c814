"""What stands in for upstream's names while a run of ours lasts; `workflow.py` says which of it a run asks for."""

import functools
import importlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import datasets

from .objective.pairs import SIDES


if TYPE_CHECKING:
    from ...hparams import DataArguments, FinetuningArguments, ModelArguments


COUNTS = "HF_UPDATE_DOWNLOAD_COUNTS"


@contextmanager
def our_trainer(
    data_args: "DataArguments",
    model_args: "ModelArguments | None" = None,
    finetuning_args: "FinetuningArguments | None" = None,
    options: dict[str, Any] | None = None,
) -> Iterator[None]:
    """Train with `UniDPOTrainer` and what it needs; upstream imports its trainer late, so it finds ours.

    With the options of a run, what it saves carries a record of it, and policy and reference are compared.

    Args:
        data_args: of the run, as are the next two.
        model_args: None only where nothing is trained.
        finetuning_args: likewise.
        options: what is kept with checkpoints as the options that they were trained with.
    """
    from .caches.tokenized import checked_against_source
    from .data.collate import PairCollator
    from .models.history import record_training
    from .models.whole import reading_either, whole_models
    from .training.same_start import SameStart
    from .training.trainer import UniDPOTrainer

    models, workflow = upstream_module("model.loader"), upstream_module("train.dpo.workflow")
    start = SameStart(model_args, finetuning_args) if finetuning_args is not None else None

    def collator(**parts: Any) -> PairCollator:
        if finetuning_args is not None:
            saved = {name: parts[name] for name in ("model", "tokenizer", "processor", "template")}
            record_training(**saved, model_args=model_args, data_args=data_args, finetuning_args=finetuning_args)
        return PairCollator(dataset_names=(data_args.dataset or [], data_args.eval_dataset or []), **parts)

    with ExitStack() as stack:
        stack.enter_context(_uncounted())
        stack.enter_context(whole_models())
        stack.enter_context(_swapped("model.loader", load_config=reading_either(models.load_config)))
        with_ours = _swapped(
            "train.dpo.workflow",
            PairwiseDataCollatorWithPadding=collator,
            get_dataset=checked_against_source(workflow.get_dataset),
            load_tokenizer=reading_either(workflow.load_tokenizer),
        )
        stack.enter_context(with_ours)
        ours = functools.partial(UniDPOTrainer, options=options, start=start)
        stack.enter_context(_swapped("train.dpo.trainer", CustomDPOTrainer=ours))
        stack.enter_context(read_as_checked())
        yield


@contextmanager
def read_as_checked() -> Iterator[None]:
    """Read data sets as `data.py check` does: texts as texts, media as files, each prompt once; part by part."""
    from .data import loader_checks, texts
    from .data.parts import in_parts
    from .data.prompts import PromptOnceProcessor

    loader = upstream_module("data.loader")
    with _swapped(
        "data.loader",
        PairwiseDatasetProcessor=PromptOnceProcessor,
        _get_preprocessed_dataset=in_parts(loader._get_preprocessed_dataset),
        load_dataset=texts.reading_texts(loader.load_dataset),
        align_dataset=loader_checks.with_media_in_files(loader.align_dataset),
    ):
        yield


@contextmanager
def scored_data(needed: dict[str, str] | None = None) -> Iterator[None]:
    """Carry scores and weights from the data set to the batch.

    Args:
        needed: which of them, each with the option that messages give as the reason; None: the scores for Uni-DPO.
    """
    from .data import converters, loader_checks

    loader = upstream_module("data.loader")
    needed = dict.fromkeys(SIDES, "pref_loss: uni_dpo") if needed is None else needed
    swaps = [
        _swapped("data.parser", DatasetAttr=converters.ScoredDatasetAttr),
        _swapped("data.converter", DATASET_CONVERTERS=converters.SCORED_CONVERTERS),
        _swapped(
            "data.loader",
            PairwiseDatasetProcessor=converters.ScoredPairwiseProcessor,
            get_dataset_list=loader_checks.with_labels(loader.get_dataset_list, needed),
            _load_single_dataset=loader_checks.explaining_failures(loader._load_single_dataset),
            align_dataset=loader_checks.with_checked_scores(loader.align_dataset),
        ),
        _swapped(
            "train.dpo.workflow",
            get_dataset=loader_checks.refusing_unscored(upstream_module("train.dpo.workflow").get_dataset, needed),
        ),
    ]
    with ExitStack() as stack:
        for swap in swaps:
            stack.enter_context(swap)
        yield


@contextmanager
def explained_models() -> Iterator[None]:
    """Name the checkpoint that does not load."""
    from .models import loading

    workflow = upstream_module("train.dpo.workflow")
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
    from .caches.fill import fill_caches
    from .caches.plan import CachePlan

    workflow, trainer = upstream_module("train.dpo.workflow"), upstream_module("train.dpo.trainer")
    plan, get_dataset, create = CachePlan(*run), workflow.get_dataset, workflow.create_ref_model

    def identified(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return plan.identify(get_dataset(*args, **kwargs))

    def reference_if_needed(*args: Any, **kwargs: Any) -> Any:
        return create(*args, **kwargs) if plan.needs_reference_model else None

    with ExitStack() as stack:
        ours = _swapped("train.dpo.workflow", get_dataset=identified, create_ref_model=reference_if_needed)
        stack.enter_context(ours)
        filling = functools.partial(trainer.CustomDPOTrainer, before_first_step=functools.partial(fill_caches, plan))
        stack.enter_context(_swapped("train.dpo.trainer", CustomDPOTrainer=filling))
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
    module = upstream_module(module_name)
    originals = {name: getattr(module, name) for name in replacements}
    try:
        for name, replacement in replacements.items():
            setattr(module, name, replacement)
        yield
    finally:
        for name, original in originals.items():
            setattr(module, name, original)


def upstream_module(name: str) -> Any:
    """Return a module of LlamaFactory by its name within it."""
    # Looked up when a run starts: importing these at the top would go in a circle through `train.dpo`.
    return importlib.import_module(f"llamafactory.{name}")
