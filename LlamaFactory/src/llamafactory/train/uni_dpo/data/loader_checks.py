"""Upstream's functions that read data sets, each with our checks around it; `swaps.py` puts them there in."""

import itertools
from collections.abc import Callable
from typing import Any

from datasets.exceptions import DatasetGenerationError
from pyarrow import ArrowInvalid

from ..errors import UniDPOError, in_context
from .descriptions import check_columns, check_entries, refuse_null
from .media_paths import refuse_no_paths
from .scores import check_scores, check_tokenized, explain_load_failure, number_rows


def with_labels(get_dataset_list: Callable, needed: dict[str, str]) -> Callable:
    """Look at the descriptions; let every data set know its name and place, for messages and for the pair log.

    And which numbers of a pair the run needs, each with the option that needs it.
    """

    def labelled(dataset_names: list[str] | None, dataset_dir: str | dict) -> list:
        if dataset_names:
            check_entries(dataset_names, dataset_dir)
        attrs = get_dataset_list(dataset_names, dataset_dir)
        for position, (label, attr) in enumerate(zip(dataset_names or [], attrs, strict=True)):
            attr.position, attr.label, attr.needed = position, label, needed
        return attrs

    return labelled


def explaining_failures(load_single_dataset: Callable) -> Callable:
    """Name the data set that does not load, and find out whether a score is why: Arrow names no row and no column."""

    def loaded(dataset_attr: Any, model_args: Any, data_args: Any, training_args: Any) -> Any:
        with in_context(f'Data set "{dataset_attr!r}"', "All its rows need the same columns and types."):
            refuse_null(dataset_attr, data_args.dataset_dir)
            try:
                return load_single_dataset(dataset_attr, model_args, data_args, training_args)
            except (DatasetGenerationError, ArrowInvalid) as error:
                explain_load_failure(dataset_attr, data_args.dataset_dir, error)
                raise

    return loaded


def with_checked_scores(align_dataset: Callable) -> Callable:
    """Check columns and all scores, and number the rows, before upstream converts a data set."""

    def aligned(dataset: Any, dataset_attr: Any, data_args: Any, training_args: Any) -> Any:
        check_columns(dataset_attr, dataset.column_names)
        if not data_args.streaming:
            dataset, rows = number_rows(dataset)
            check_scores(dataset, dataset_attr, rows)
        elif dataset_attr.load_from == "file":
            if training_args.dataloader_num_workers < 1:  # upstream makes as many shards of the file as workers
                raise UniDPOError("`streaming: true` from a file needs `dataloader_num_workers: 1` or more.")
            check_scores(dataset, dataset_attr, itertools.count())
        # A remote stream is not read twice: its scores are checked as they arrive.
        return align_dataset(dataset, dataset_attr, data_args, training_args)

    return aligned


def with_media_in_files(align_dataset: Callable) -> Callable:
    """Refuse images that stand in the rows as text, or on the web, before upstream takes them for paths."""

    def aligned(dataset: Any, dataset_attr: Any, data_args: Any, training_args: Any) -> Any:
        if not data_args.streaming:
            refuse_no_paths(dataset, dataset_attr)
        return align_dataset(dataset, dataset_attr, data_args, training_args)

    return aligned


def refusing_unscored(get_dataset: Callable, needed: dict[str, str]) -> Callable:
    """Refuse data tokenised without what the run needs, which `tokenized_path` would bring in around other checks."""

    def with_scores(template: Any, model_args: Any, data_args: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        with in_context("The data", "No pair is left of it: see the warnings above."):
            dataset_module = get_dataset(template, model_args, data_args, *args, **kwargs)
        check_tokenized(dataset_module, data_args.tokenized_path, needed)
        return dataset_module

    return with_scores
