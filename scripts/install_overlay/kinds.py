"""The upstreams that have an overlay, and what the overlay takes hold of in each."""

from dataclasses import dataclass

from .supported import oldest


# Everything of ours but the replaced files (and `beside`) lies in folders of this name, which no upstream has.
OWN = "uni_dpo"


@dataclass(frozen=True)
class Kind:
    """One upstream.

    Attributes:
        title: Its name in messages.
        package: The name of its Python package.
        inside: Where the package lies in a checkout, and so in the overlay.
        folder: The overlay's folder in this repository.
        seam: The one file that is replaced, as a name inside the overlay.
        upstream_seams: SHA-256 of upstream's own versions of it.
        mark: What upstream's own versions of it have in common.
        ours: The main package of the overlay, which states the version.
        version_file: The file of the upstream package that states its version.
        version_name: The name it is stated under.
        oldest: The oldest version that is supported.
        needed: What the overlay takes hold of: file of the package, text that must be in it, what it is.
        command: The console script that starts it, or None.
        script: What starts it in a checkout.
        distribution: What pip installs.
        loose: Files of the overlay's folder that are used where they are and not installed.
        beside: Files of ours that lie outside our folders, in places that upstream does not use.
    """

    title: str
    package: str
    inside: str
    folder: str
    seam: str
    upstream_seams: frozenset[str]
    mark: bytes
    ours: str
    version_file: str
    version_name: str
    oldest: str
    needed: tuple[tuple[str, str, str], ...]
    command: str | None
    script: str
    distribution: str
    loose: frozenset[str] = frozenset()
    beside: frozenset[str] = frozenset()

    @property
    def record_folder(self) -> str:
        """The hidden folder for the record of an installation and for upstream's own file, beside our package."""
        return f"{self.ours.rpartition('/')[0]}/.{OWN}_overlay"


LLAMAFACTORY = Kind(
    title="LlamaFactory",
    package="llamafactory",
    inside="src/llamafactory",
    folder="LlamaFactory",
    seam="src/llamafactory/train/dpo/__init__.py",
    # The same in 0.9.4, 0.9.5 and the development versions around them.
    upstream_seams=frozenset({"9b2dbca82aee3f7704500647336a7956d6029552020c1c5de7f1e2ec6d9cca9b"}),
    mark=b"run_dpo",
    ours=f"src/llamafactory/train/{OWN}",
    version_file="extras/env.py",
    version_name="VERSION",
    oldest=oldest("llamafactory"),
    needed=(
        ("train/dpo/__init__.py", "", "the package of the DPO stage"),
        ("train/dpo/workflow.py", "from .trainer import CustomDPOTrainer", "the late import of CustomDPOTrainer"),
        ("train/dpo/trainer.py", "class CustomDPOTrainer", "CustomDPOTrainer"),
        ("train/trainer_utils.py", "", "the helpers of trainers"),
        ("train/tuner.py", "from .dpo import run_dpo", "the import of run_dpo"),
        ("hparams/parser.py", "_TRAIN_ARGS", "the list of argument classes"),
        ("hparams/finetuning_args.py", "pref_loss", "the option pref_loss"),
        ("data/loader.py", "PairwiseDatasetProcessor", "the choice of PairwiseDatasetProcessor"),
        ("data/converter.py", "DATASET_CONVERTERS", "the table of dataset converters"),
        ("data/collator.py", "class PairwiseDataCollatorWithPadding", "PairwiseDataCollatorWithPadding"),
    ),
    command="llamafactory-cli",
    script="src/train.py",
    distribution="llamafactory",
    beside=frozenset({"scripts/change_data_image_path.py"}),  # where the published guide has it
)

VLMEVAL = Kind(
    title="VLMEvalKit",
    package="vlmeval",
    inside="vlmeval",
    folder="VLMEvalKit",
    seam="vlmeval/vlm/qwen2_vl/__init__.py",
    upstream_seams=frozenset(
        {
            "cd0f0a64613e513dc0990a73220b6db51abe0c30dc173a270bac94dfc25a7ffe",  # ms-vlmeval 0.0.20, August 2026
            "5fc7d952de2ee0d65cb661d770380314b8711f29424704eab997209d65904b41",  # early 2025
        }
    ),
    mark=b"Qwen2VLChat",
    ours=f"vlmeval/vlm/qwen2_vl/{OWN}",
    version_file="__init__.py",
    version_name="__version__",
    oldest=oldest("vlmeval"),
    needed=(
        ("vlm/qwen2_vl/__init__.py", "", "the package of the Qwen2-VL models"),
        ("vlm/qwen2_vl/model.py", "class Qwen2VLChat", "Qwen2VLChat"),
        ("vlm/qwen2_vl/prompt.py", "class Qwen2VLPromptMixin", "Qwen2VLPromptMixin"),
        ("vlm/__init__.py", "from .qwen2_vl import Qwen2VLChat", "the import of Qwen2VLChat"),
        ("vlm/base.py", "class BaseModel", "BaseModel"),
        ("dataset/__init__.py", "SUPPORTED_DATASETS", "the list of data sets"),
    ),
    command=None,
    script="run.py",
    distribution="ms-vlmeval",
    loose=frozenset({"config.json", "config_poster.json"}),
)

KINDS = {kind.package: kind for kind in (LLAMAFACTORY, VLMEVAL)}
