"""The command `download`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ..descriptions import RECIPE_DATA as DATASET
from ..descriptions import described
from ..errors import DataError
from ..paths import look_at_paths, print_report, rewrite_paths
from ..register import register
from ..sources import open_source
from ..writing import keeping_original


NAME = "download"
# Beside this script in the repository and in a checkout of LlamaFactory: where the example looks by itself.
USUAL = Path(__file__).resolve().parents[4] / "data" / "uni_dpo"
FILES_HELP = (
    "which files, once for each (default: the scored pairs, long.zip, short.zip, mcq.zip, data.jsonl, "
    "dpo_pairs.jsonl; there are also safety.zip and video.zip)"
)
ARCHIVE_HELP = "unpack this zip, fetched by hand, instead of downloading; once for each"


def run(
    to: Annotated[Path, typer.Option(help="the folder in which MM-RLHF/ is made")] = Path("data/uni_dpo"),
    files: Annotated[list[str] | None, typer.Option(help=FILES_HELP, show_default=False)] = None,
    archive: Annotated[list[Path] | None, typer.Option(help=ARCHIVE_HELP, show_default=False)] = None,
    unpack: Annotated[bool, typer.Option(help="unpack the archives after downloading them")] = True,
    remove_archives: Annotated[
        bool, typer.Option("--remove-archives", help="delete each archive once it is unpacked")
    ] = False,
) -> None:
    r"""Download the published pairs, and MM-RLHF's images and answers (21 GB), and make them ready for training.

    \b
      data.py download                                           everything; then the example script trains
      data.py download --files mcq.zip --files dpo_pairs.jsonl   a smaller start: 1.2 GB
      data.py download --archive ~/Downloads/long.zip            unpack what was fetched by hand

    Checksums are checked and archives unpacked into MM-RLHF/. The scored pairs of the published run,
    uni_dpo_image_only_mcq_short_long_50k.json, come from Hugging Face or, where that does not answer, from ModelScope
    (first from there with USE_MODELSCOPE_HUB=1); their paths are made those of this machine, and dataset_info.json
    gets an entry, uni_dpo_mm_rlhf. A file of that name that is there already is kept, but for its paths.

    Run it again after an interruption: it downloads and unpacks what is missing. Archives are not trusted: links,
    paths that leave the folder and files that grow beyond reason are refused before anything is written.

    MM-RLHF's own pairs have no scores: `data.py score` adds some.
    """
    from ..download import hub

    folder, published, pairs = to / "MM-RLHF", to / "Uni-DPO" / hub.PAIRS, to / hub.PAIRS
    for path in archive or []:
        if not path.is_file():
            raise DataError(f"there is no file {path}")
        _unpack(path, folder, remove_archives)
    # Small files first, so that a broken connection leaves something to look at.
    names = list(dict.fromkeys(files or [hub.PAIRS, *hub.ANSWERS, *reversed(hub.ARCHIVES)]))
    wants_pairs = published.exists() if archive else hub.PAIRS in names
    if wants_pairs and not published.exists() and not pairs.exists():
        remote = hub.describe_pairs(published.parent)
        hub.require_disk([remote], published.parent, unpack=False)
        hub.fetch(remote, published.parent)
    try:
        if not archive:
            _fetch([name for name in names if name != hub.PAIRS], folder, unpack, remove_archives)
    finally:  # also without images, which may come by hand
        if wants_pairs:
            _make_ready(published, pairs)


def _fetch(names: list[str], folder: Path, unpack: bool, remove: bool) -> None:
    from ..download import hub

    missing = [name for name in names if not (_mark(folder, name).exists() and (folder / Path(name).stem).is_dir())]
    remotes = hub.describe(missing, folder) if missing else []
    hub.require_disk(remotes, folder, unpack)
    for remote in remotes:
        path = hub.fetch(remote, folder)
        if unpack and path.suffix == ".zip":
            _unpack(path, folder, remove)
    if names:
        print(f"{folder}: " + ", ".join(names) + (" are there." if len(names) > 1 else " is there."))


def _unpack(path: Path, folder: Path, remove: bool) -> None:
    from ..download.unpack import unpack

    written = unpack(path, folder)
    _mark(folder, path.name).touch()
    if remove:
        path.unlink()
    print(f"{path.name}: {written:,} files unpacked into {folder}" + (", archive removed" if remove else ""))


def _mark(folder: Path, name: str) -> Path:
    """Name the mark that an archive was unpacked to its end; without it, it would be fetched again to look."""
    return folder / f".{name}.unpacked"


def _make_ready(published: Path, pairs: Path) -> None:
    """Write the pairs with the paths of this machine and describe them, beside the folder of their images.

    If they are there they are kept, perhaps corrected by hand, but for their paths.
    """
    folder = pairs.parent
    if not pairs.exists():
        print_report(rewrite_paths(open_source(str(published)), pairs, folder), pairs)
    elif look_at_paths(open_source(str(pairs)), folder).rewritten:
        with keeping_original(pairs) as original:
            report = rewrite_paths(open_source(str(pairs)), pairs, folder)
        print_report(report, pairs)
        print(f"As it was: {original}")
    if not _is_described(pairs):
        register(DATASET, pairs, folder)
    where = "" if folder.resolve() == USUAL else f"DATASET_DIR='{folder.resolve()}' "
    print(f'Data set "{DATASET}" is ready in {folder}. Train it: {where}bash examples/uni_dpo/Qwen2_VL_2B_uni_dpo.sh')


def _is_described(pairs: Path) -> bool:
    """Tell whether the name stands for this file already, whatever else its entry says."""
    info = pairs.parent / "dataset_info.json"
    if not info.exists() or DATASET not in (entries := described(info.parent)):
        return False
    entry = entries[DATASET]
    if not isinstance(entry, dict) or entry.get("file_name") != pairs.name:
        raise DataError(f'{info} has another "{DATASET}": {json.dumps(entry)}. Rename it, or choose --to.')
    return True
