"""The command `download`."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import DataError


NAME = "download"

To = Annotated[Path, typer.Option(help="the folder in which MM-RLHF/ is made")]
Files = Annotated[
    list[str] | None,
    typer.Option(
        help="which files, once for each (default: the scored pairs, long.zip, short.zip, mcq.zip, data.jsonl, "
        "dpo_pairs.jsonl; there are also safety.zip and video.zip)",
        show_default=False,
    ),
]
Archive = Annotated[
    list[Path] | None,
    typer.Option(help="unpack this zip, fetched by hand, instead of downloading; once for each", show_default=False),
]
Unpack = Annotated[bool, typer.Option(help="unpack the archives after downloading them")]
Remove = Annotated[bool, typer.Option("--remove-archives", help="delete each archive once it is unpacked")]


def run(
    to: To = Path("data/uni_dpo"),
    files: Files = None,
    archive: Archive = None,
    unpack: Unpack = True,
    remove_archives: Remove = False,
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

    An interrupted download goes on where it stopped, and so does unpacking. Archives are not trusted: links, paths
    that leave the folder and files that grow beyond reason are refused before anything is written.

    MM-RLHF's own pairs have no scores: `data.py score` adds some.
    """
    from ..download import hub
    from ..download.published import make_ready
    from ..download.unpack import unpack as unpack_archive

    folder, downloaded, pairs = to / "MM-RLHF", to / "Uni-DPO" / hub.PAIRS, to / hub.PAIRS
    for path in archive or []:
        if not path.is_file():
            raise DataError(f"there is no file {path}")
        _unpack(path, folder, unpack_archive, remove_archives)
    # Small files first, so that a broken connection leaves something to look at.
    names = list(dict.fromkeys(files or [hub.PAIRS, *hub.ANSWERS, *reversed(hub.ARCHIVES)]))
    wants_pairs = downloaded.exists() if archive else hub.PAIRS in names
    if wants_pairs and not downloaded.exists() and not pairs.exists():
        remote = hub.describe_pairs(downloaded.parent)
        hub.require_disk([remote], downloaded.parent, unpack=False)
        hub.fetch(remote, downloaded.parent)
    try:
        if not archive:
            _fetch([name for name in names if name != hub.PAIRS], folder, unpack, remove_archives)
    finally:  # also without images, which may come by hand
        if wants_pairs:
            make_ready(downloaded, pairs)


def _fetch(names: list[str], folder: Path, unpack: bool, remove: bool) -> None:
    from ..download import hub
    from ..download.unpack import unpack as unpack_archive

    missing = [name for name in names if not _is_unpacked(folder, name)]
    remotes = hub.describe(missing, folder) if missing else []
    hub.require_disk(remotes, folder, unpack)
    for remote in remotes:
        path = hub.fetch(remote, folder)
        if unpack and path.suffix == ".zip":
            _unpack(path, folder, unpack_archive, remove)
    if names:
        print(f"{folder}: " + ", ".join(names) + (" are there." if len(names) > 1 else " is there."))


def _unpack(path: Path, folder: Path, unpack_archive, remove: bool) -> None:
    written = unpack_archive(path, folder)
    _stamp(folder, path.name).touch()
    if remove:
        path.unlink()
    print(f"{path.name}: {written:,} files unpacked into {folder}" + (", archive removed" if remove else ""))


def _is_unpacked(folder: Path, name: str) -> bool:
    return _stamp(folder, name).exists() and (folder / name).with_suffix("").is_dir()


def _stamp(folder: Path, name: str) -> Path:
    """The mark that an archive was unpacked to its end; without it, it would be fetched again to look."""
    return folder / f".{name}.unpacked"
