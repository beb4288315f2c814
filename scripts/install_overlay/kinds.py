"""The upstreams that have an overlay, and what the overlay takes hold of in each."""

import ast
from dataclasses import dataclass
from pathlib import Path

from common import ROOT


# Everything of ours but the replaced files (and `beside`) lies in folders of this name, which no upstream has.
OWN = "uni_dpo"


@dataclass(frozen=True)
class Kind:
    """One upstream."""

    title: str  # its name in messages, and of the overlay's folder in this repository
    package: str  # its Python package
    distribution: str  # what pip installs
    inside: str  # where the package lies in a checkout, and so in the overlay
    script: str  # what starts it in a checkout
    command: str | None  # the console script that starts it
    seam: str  # the one file that is replaced, as a name inside the overlay
    upstream_seams: frozenset[str]  # SHA-256 of upstream's own versions of that file
    ours: str  # the main package of the overlay, which states its version
    states: str  # the module of that package that states the supported versions
    version_file: str  # the file of the upstream package that states its version
    version_name: str  # the name it is stated under
    needed: tuple[tuple[str, str], ...]  # what the overlay takes hold of: file of the package, text in it
    loose: frozenset[str] = frozenset()  # files of the overlay's folder that are used where they are
    beside: frozenset[str] = frozenset()  # files of ours outside our folders, where upstream has none

    @property
    def overlay(self) -> Path:
        """The overlay's folder in this repository."""
        return ROOT / self.title

    @property
    def record_folder(self) -> str:
        """The hidden folder for the record of an installation and for upstream's own file, beside our package."""
        return f"{self.ours.rpartition('/')[0]}/.{OWN}_overlay"

    @property
    def supported(self) -> dict[str, str]:
        """What the overlay supports: names of packages to ranges of versions, read without importing anything."""
        for node in ast.parse((self.overlay / self.ours / self.states).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "SUPPORTED":
                return ast.literal_eval(node.value)
        raise LookupError(f"{self.states} states no SUPPORTED")

    @property
    def oldest(self) -> str:
        """The oldest version of upstream itself that is supported."""
        return self.supported[self.package].removeprefix(">=").partition(",")[0]


LLAMAFACTORY = Kind(
    title="LlamaFactory",
    package="llamafactory",
    distribution="llamafactory",
    inside="src/llamafactory",
    script="src/train.py",
    command="llamafactory-cli",
    seam="src/llamafactory/train/dpo/__init__.py",
    # The same in 0.9.4, 0.9.5 and the development versions around them.
    upstream_seams=frozenset({"9b2dbca82aee3f7704500647336a7956d6029552020c1c5de7f1e2ec6d9cca9b"}),
    ours=f"src/llamafactory/train/{OWN}",
    states="upstream/versions.py",
    version_file="extras/env.py",
    version_name="VERSION",
    needed=(
        ("train/dpo/__init__.py", ""),
        ("train/dpo/workflow.py", "from .trainer import CustomDPOTrainer"),
        ("train/dpo/trainer.py", "class CustomDPOTrainer"),
        ("train/trainer_utils.py", ""),
        ("train/tuner.py", "from .dpo import run_dpo"),
        ("hparams/parser.py", "_TRAIN_ARGS"),
        ("hparams/finetuning_args.py", "pref_loss"),
        ("data/loader.py", "PairwiseDatasetProcessor"),
        ("data/converter.py", "DATASET_CONVERTERS"),
        ("data/collator.py", "class PairwiseDataCollatorWithPadding"),
    ),
    beside=frozenset({"scripts/change_data_image_path.py"}),  # where the published guide has it
)

VLMEVAL = Kind(
    title="VLMEvalKit",
    package="vlmeval",
    distribution="ms-vlmeval",
    inside="vlmeval",
    script="run.py",
    command=None,
    seam="vlmeval/vlm/qwen2_vl/__init__.py",
    upstream_seams=frozenset(
        {
            "cd0f0a64613e513dc0990a73220b6db51abe0c30dc173a270bac94dfc25a7ffe",  # ms-vlmeval 0.0.20, August 2026
            "5fc7d952de2ee0d65cb661d770380314b8711f29424704eab997209d65904b41",  # early 2025
        }
    ),
    ours=f"vlmeval/vlm/qwen2_vl/{OWN}",
    states="versions.py",
    version_file="__init__.py",
    version_name="__version__",
    needed=(
        ("vlm/qwen2_vl/__init__.py", ""),
        ("vlm/qwen2_vl/model.py", "class Qwen2VLChat"),
        ("vlm/qwen2_vl/prompt.py", "class Qwen2VLPromptMixin"),
        ("vlm/__init__.py", "from .qwen2_vl import Qwen2VLChat"),
        ("vlm/base.py", "class BaseModel"),
        ("dataset/__init__.py", "SUPPORTED_DATASETS"),
    ),
    loose=frozenset({"config.json", "config_poster.json"}),
)

KINDS = {kind.package: kind for kind in (LLAMAFACTORY, VLMEVAL)}
