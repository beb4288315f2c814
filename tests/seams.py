"""Every name of LlamaFactory, transformers and trl that the overlay touches, with the reason.

Run with a patched LlamaFactory on the path; prints one line for each seam that is not as expected and exits 1.
"""

import inspect
import sys
from collections.abc import Callable

import transformers

import llamafactory.train.tuner as tuner
from llamafactory.data import collator, converter, loader, parser, processor
from llamafactory.extras import constants, misc
from llamafactory.hparams import parser as options_parser
from llamafactory.hparams.finetuning_args import FinetuningArguments
from llamafactory.train.dpo import trainer, workflow
from llamafactory.train.uni_dpo import arguments


def parameters(function: Callable) -> list[str]:
    """Names of a function's parameters."""
    return list(inspect.signature(function).parameters)


def _imports_trainer_late() -> bool:
    source = inspect.getsource(workflow.run_dpo)
    return "from .trainer import CustomDPOTrainer" in source and not hasattr(workflow, "CustomDPOTrainer")


def _merges_in_order() -> bool:
    source = inspect.getsource(loader._get_merged_dataset)
    return "get_dataset_list(dataset_names, data_args.dataset_dir)" in source


DPO = trainer.CustomDPOTrainer
LOGPS = ["self", "policy_chosen_logps", "policy_rejected_logps", "reference_chosen_logps", "reference_rejected_logps"]

SEAMS = {
    "tuner calls run_dpo of train.dpo: our way in": lambda: tuner.run_dpo.__module__.endswith("uni_dpo.workflow"),
    "the parser reads its classes from a list: our options join there": lambda: (
        arguments.UniDPOFinetuningArguments in options_parser._TRAIN_ARGS
        and FinetuningArguments not in options_parser._TRAIN_ARGS
    ),
    "FinetuningArguments has the fields we check": lambda: all(
        hasattr(FinetuningArguments(), name)
        for name in ("stage", "pref_loss", "pref_beta", "dpo_label_smoothing", "pref_bco_weight", "use_ref_model")
    ),
    "run_dpo has the signature we stand in for": lambda: (
        parameters(workflow.run_dpo) == ["model_args", "data_args", "training_args", "finetuning_args", "callbacks"]
    ),
    "run_dpo imports its trainer late: ours is found": _imports_trainer_late,
    "run_dpo takes collator and data from its module": lambda: (
        hasattr(workflow, "PairwiseDataCollatorWithPadding") and hasattr(workflow, "get_dataset")
    ),
    "the loader takes the names we swap from its module": lambda: all(
        hasattr(loader, name)
        for name in ("PairwiseDatasetProcessor", "get_dataset_list", "_load_single_dataset", "align_dataset")
    ),
    "the loader asks for its data sets in the order of the option": _merges_in_order,
    "align_dataset and _load_single_dataset have the arguments we pass on": lambda: (
        parameters(loader.align_dataset) == ["dataset", "dataset_attr", "data_args", "training_args"]
        and parameters(loader._load_single_dataset) == ["dataset_attr", "model_args", "data_args", "training_args"]
    ),
    "dataset_info.json entries are read by DatasetAttr.join": lambda: (
        parameters(parser.DatasetAttr.join) == ["self", "attr"]
        and "DatasetAttr" in parser.get_dataset_list.__code__.co_names
    ),
    "the converters are those we extend": lambda: (
        set(converter.DATASET_CONVERTERS) == {"alpaca", "sharegpt", "openai"}
    ),
    "a converter turns one example into one": lambda: (
        parameters(converter.AlpacaDatasetConverter.__call__) == ["self", "example"]
    ),
    "the processor takes and returns columns": lambda: (
        parameters(processor.PairwiseDatasetProcessor.preprocess_dataset) == ["self", "examples"]
    ),
    "the collator takes features": lambda: (
        parameters(collator.PairwiseDataCollatorWithPadding.__call__) == ["self", "features"]
    ),
    "the trainer's steps are those we override": lambda: (
        parameters(DPO.compute_preference_loss) == LOGPS
        and parameters(DPO.concatenated_forward) == ["self", "model", "batch", "is_ref_model"]
        and parameters(DPO.get_batch_loss_metrics) == ["self", "model", "batch", "train_eval"]
    ),
    "transformers hands loss and gradient norm over before it logs or saves": lambda: (
        parameters(transformers.Trainer._maybe_log_save_evaluate)[:3] == ["self", "tr_loss", "grad_norm"]
    ),
    "transformers loads checkpoints where we mend the loading": lambda: (
        parameters(transformers.Trainer._load_from_checkpoint) == ["self", "resume_from_checkpoint", "model"]
        and parameters(transformers.Trainer._load_best_model) == ["self"]
    ),
    "transformers prepares batches where we keep scores float32": lambda: (
        parameters(transformers.Trainer._prepare_inputs) == ["self", "inputs"]
    ),
    "helpers that we import": lambda: constants.IGNORE_INDEX == -100 and callable(misc.is_env_enabled),
}


if __name__ == "__main__":
    broken = [name for name, holds in SEAMS.items() if not holds()]
    print("\n".join(f"not as expected: {name}" for name in broken) or f"{len(SEAMS)} seams as expected")
    sys.exit(bool(broken))
