"""The command `check`."""

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import psutil
import typer

from ..errors import DataError
from ..options import DatasetDir, MediaDir
from ..sources import open_source
from ..writing import require_new_name, require_writable


if TYPE_CHECKING:  # what takes long to import waits until the options are known to be good
    from ..check.plan import Checked, Plan


NAME = "check"


def run(
    data: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATA... | KEY=VALUE...",
            help=".json, .jsonl, .csv, .parquet files, or names in --dataset-dir; with --config, options it overrides",
            show_default=False,
        ),
    ] = None,
    dataset_dir: DatasetDir = None,
    media_dir: MediaDir = None,
    held_out: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DATA", help="data to evaluate on: looks for leaks (may be repeated)", show_default=False
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML of a training run: checks exactly the data that it would read", show_default=False),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="a model's folder or name: checks what --cutoff-len would cut", show_default=False),
    ] = None,
    template: Annotated[str, typer.Option(help="LlamaFactory's template, with --model")] = "qwen2_vl",
    cutoff_len: Annotated[int, typer.Option(min=1, help="tokens of a pair that training keeps, with --model")] = 4096,
    image_max_pixels: Annotated[int, typer.Option(min=784, help="larger images are scaled down")] = 768 * 768,
    no_images: Annotated[bool, typer.Option("--no-images", help="open no images, videos or sounds")] = False,
    no_tokens: Annotated[bool, typer.Option("--no-tokens", help="with --config: load no tokenizer")] = False,
    no_scores: Annotated[bool, typer.Option("--no-scores", help="pairs for a loss without scores")] = False,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="processes that open images (default: one a core, 16 at most)", show_default=False),
    ] = None,
    findings: Annotated[
        Path | None, typer.Option(help="write every finding with its row to this .jsonl", show_default=False)
    ] = None,
    fix: Annotated[
        Path | None,
        typer.Option(metavar="OUT", help="write a cleaned copy: .json, .jsonl or .parquet", show_default=False),
    ] = None,
    fix_images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="with --fix: write corrected copies of images here", show_default=False),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="exit with 1 for warnings too")] = False,
) -> None:
    """Check a data set the way training will read it, before hours are spent on it.

    Says what would stop training (errors), what would spoil it quietly (warnings) and what is worth knowing (notes):
    rows that cannot be read or loaded, scores, answers, <image> against images, images, videos and sounds that are
    missing or damaged, images that look different in training, duplicates, contradictions, leaks into held-out data,
    with a config a tokenized_path that is out of date, and with a model what cutoff_len would cut. Rows are counted
    from 0. Exit status 1 if there are errors, with --fix those of the copy.

    --fix leaves out rows with errors and duplicates (the first stays), and repairs what needs no guess: scores written
    as text, single images among lists, a column of several types that training does not use (left out). Images are
    changed only with --fix-images, into copies: turned upright, on white, in 8 bits, the first frame.

    \b
    Examples:
      data.py check pairs.json --media-dir images --findings findings.jsonl
      data.py check pairs.json --held-out test.json --fix clean.json
      data.py check --config examples/uni_dpo/Qwen2_VL_2B_uni_dpo.yaml cutoff_len=2048
    """  # noqa: D301 - typer's mark for lines to leave alone
    from ..check.plan import Plan
    from ..check.report import summary
    from ..check.run import check
    from ..check.training import plan_from_config, read_options

    overrides = [text for text in data or [] if "=" in text] if config else []
    names = [text for text in data or [] if text not in overrides]
    if config and (names or held_out or model or dataset_dir or media_dir):
        raise DataError("--config says which data and which model; change them as in training, with KEY=VALUE.")
    if not config and not names:
        raise DataError("give DATA to check, or the --config of a training run.")
    settings = {"images": not no_images, "workers": workers or _default_workers()}
    if config:
        plan = plan_from_config(config, overrides, tokens=not no_tokens, **settings)
    else:
        sources, others = (
            [open_source(name, dataset_dir, media_dir) for name in some or []] for some in (names, held_out)
        )
        options = {"template": template, "cutoff_len": cutoff_len, "image_max_pixels": image_max_pixels}
        training = read_options(options | {"model_name_or_path": model}) if model else None
        plan = Plan(sources, others, not no_scores, max_pixels=image_max_pixels, training=training, **settings)
    _require_outputs(plan, findings, fix, fix_images)

    checked = check(plan)
    print(summary(checked))
    if findings:
        checked.found.write(findings)
        print(f"All findings: {findings}")
    elif checked.found.counts:
        print("For the row of every finding, add --findings FILE.jsonl")
    if fix:
        checked = _fix(checked, fix, fix_images)
    levels = checked.found.level_counts
    if levels["error"] or (strict and levels["warning"]):
        raise typer.Exit(1)


def _default_workers() -> int:
    """Return one for each core that this process may use, 16 at most."""
    affinity = getattr(psutil.Process(), "cpu_affinity", None)
    return min(16, len(affinity()) if affinity else os.cpu_count() or 1)


def _require_outputs(plan: "Plan", findings: Path | None, fix: Path | None, fix_images: Path | None) -> None:
    """Refuse places to write that cannot be, before anything is checked."""
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


def _fix(checked: "Checked", output: Path, images: Path | None) -> "Checked":
    """Write the cleaned copy, and check it but for what it has kept: its images."""
    from ..check.fix import Fixer
    from ..check.report import summary
    from ..check.run import check

    if checked.found.counts["column-missing"]:
        raise DataError("--fix cannot make up a column that is missing; nothing was written.")
    print(f"\n{Fixer(checked, images, progress=True).write(output)}")
    source = dataclasses.replace(checked.plan.sources[0], name=output.name, files=(output,))
    copy = check(dataclasses.replace(checked.plan, sources=[source], images=False, training=None))
    errors = copy.found.level_counts["error"]
    if errors:
        print(summary(copy))
    print(f"The copy has {errors or 'no'} errors. Its image paths start from {source.media_dir}, as before.")
    if os.path.realpath(output.parent) != os.path.realpath(source.media_dir) and checked.media.relative:
        print(f"Relative paths among them: where the copy lies, training needs media_dir: {source.media_dir}")
    return copy
