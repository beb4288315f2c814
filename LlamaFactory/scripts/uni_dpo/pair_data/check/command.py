"""What the command does with its options."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import psutil

from ..errors import DataError
from ..sources import open_source
from ..writing import require_new_name, require_writable
from .fixing import Fixer
from .kinds import ERROR, WARNING
from .plan import Plan
from .report import summary
from .run import Checked, check
from .training import plan_from_config, read_options


def default_workers() -> int:
    """Return one for each core that this process may use, 16 at most."""
    affinity = getattr(psutil.Process(), "cpu_affinity", None)
    return min(16, len(affinity()) if affinity else os.cpu_count() or 1)


def from_config(config: Path, overrides: list[str], tokens: bool, **settings: Any) -> Plan:
    """Plan from the YAML of a training run.

    Raises:
        DataError: it cannot be read, or says nothing of data.
    """
    plan = plan_from_config(config, overrides, **settings)
    return plan if tokens else dataclasses.replace(plan, training=None)


def from_names(
    names: list[str],
    held_out: list[str],
    dataset_dir: Path | None,
    media_dir: Path | None,
    model: str | None,
    options: dict[str, Any],
    **settings: Any,
) -> Plan:
    """Plan from files and names on the command line; `options` are LlamaFactory's.

    Raises:
        DataError: there is no such data set.
    """
    sources, others = ([open_source(name, dataset_dir, media_dir) for name in some] for some in (names, held_out))
    training = read_options(options | {"model_name_or_path": model}) if model else None
    return Plan(sources, others, max_pixels=options["image_max_pixels"], training=training, **settings)


def require_outputs(plan: Plan, findings: Path | None, fix: Path | None, fix_images: Path | None) -> None:
    """Refuse places to write that cannot be, before anything is checked.

    Raises:
        DataError: one of them cannot.
    """
    inputs = [file for source in (*plan.sources, *plan.held_out) for file in source.files]
    if fix_images and not fix:
        raise DataError("--fix-images DIR goes with --fix OUT, the copy whose rows name the corrected images.")
    if fix_images and not plan.images:
        raise DataError("--fix-images has to open images; leave --no-images out.")
    if fix and len(plan.sources) > 1:
        raise DataError("--fix writes a copy of one data set; give them one at a time.")
    if findings:
        require_writable(findings, [".jsonl"])
        require_new_name(findings, [*inputs, fix])
    if fix:
        require_writable(fix)
        require_new_name(fix, inputs)
    if fix_images:
        require_writable(fix_images / "any.png", [".png"])


def check_and_fix(plan: Plan, findings: Path | None, fix: Path | None, fix_images: Path | None, strict: bool) -> bool:
    """Check, print the summary, write what was asked for; return whether the data may be trained on.

    Raises:
        DataError: something cannot be read or written.
    """
    checked = check(plan)
    print(summary(checked, _skipped(plan)))
    if findings:
        checked.found.write(findings)
        print(f"All findings: {findings}")
    elif checked.found.counts:
        print("For the row of every finding, add --findings FILE.jsonl")
    if fix:
        checked = _fix(plan, checked, fix, fix_images)
    levels = checked.found.level_counts()
    return not levels[ERROR] and not (strict and levels[WARNING])


def _fix(plan: Plan, checked: Checked, output: Path, images: Path | None) -> Checked:
    """Write the cleaned copy, and check it but for what it has kept: its images."""
    if checked.found.counts["column-missing"]:
        raise DataError("--fix cannot make up a column that is missing; nothing was written.")
    fixed = Fixer(checked, plan.scored, images, progress=True).write(output)
    print(f"\n{fixed.text(output)}")
    source = dataclasses.replace(plan.sources[0], name=output.name, files=(output,))
    copy = check(dataclasses.replace(plan, sources=[source], images=False, training=None, tokenized=None))
    errors = copy.found.level_counts()[ERROR]
    if errors:
        print(summary(copy, []))
    print(f"The copy has {errors or 'no'} errors. Its image paths start from {source.media_dir}, as before.")
    if os.path.realpath(output.parent) != os.path.realpath(source.media_dir) and checked.gallery.relative:
        print(f"Relative paths among them: where the copy lies, training needs media_dir: {source.media_dir}")
    return copy


def _skipped(plan: Plan) -> list[str]:
    skipped = [] if plan.images else ["Images were not opened."]
    return skipped + ([] if plan.training and plan.images else ["Tokens were not counted: that takes a model."])
