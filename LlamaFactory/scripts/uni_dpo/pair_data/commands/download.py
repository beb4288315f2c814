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
        help="which files, once for each (default: long.zip, short.zip, mcq.zip, data.jsonl, dpo_pairs.jsonl; there "
        "are also safety.zip and video.zip)",
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
    r"""Download MM-RLHF's images and answers (21 GB), check their checksums, and unpack them into MM-RLHF/.

    \b
      data.py download --files mcq.zip --files dpo_pairs.jsonl   a smaller start: 1.2 GB
      data.py download                                           everything that the published pairs need
      data.py download --archive ~/Downloads/long.zip            unpack what was fetched by hand

    An interrupted download goes on where it stopped, and so does unpacking. Archives are not trusted: links, paths
    that leave the folder and files that grow beyond reason are refused before anything is written.

    The scored pairs of the published run, uni_dpo_image_only_mcq_short_long_50k.json, are their authors'; put them
    into the same folder and rewrite their paths with `data.py paths`. MM-RLHF's own pairs have no scores: `data.py
    score` adds some.
    """
    from ..download import hub
    from ..download.unpack import unpack as unpack_archive

    folder = to / "MM-RLHF"
    for path in archive or []:
        if not path.is_file():
            raise DataError(f"there is no file {path}")
        _unpack(path, folder, unpack_archive, remove_archives)
    if archive:
        return
    # Small files first, so that a broken connection leaves something to look at.
    names = list(dict.fromkeys(files or [*hub.ANSWERS, *reversed(hub.ARCHIVES)]))
    missing = [name for name in names if not _is_unpacked(folder, name)]
    remotes = hub.describe(missing, folder) if missing else []
    hub.require_disk(remotes, folder, unpack)
    for remote in remotes:
        path = hub.fetch(remote, folder)
        if unpack and path.suffix == ".zip":
            _unpack(path, folder, unpack_archive, remove_archives)
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
