"""A `tokenized_path`: training takes what is there for the data, whatever has become of the files since."""

import os
from pathlib import Path

from .findings import WHOLE, Findings
from .training import Options


def check_tokenized(options: Options, found: Findings) -> None:
    """Say that a run reads data that were tokenised before, and whether they are still those of its files.

    Args:
        options: of the run.
        found: where findings go, about the data sets of the run.
    """
    folder = options.data.tokenized_path
    if not folder or not Path(folder).is_dir() or not any(Path(folder).iterdir()):
        return
    message = f"training reads {folder}, and none of the files that were checked here"
    found.add("tokenized", 0, WHOLE, None, message)
    if reason := _other_source(Path(folder), options, found):
        found.add("tokenized-stale", 0, WHOLE, None, reason)


def _other_source(folder: Path, options: Options, found: Findings) -> str:
    """Return why the folder is not what the run would make now, as training says it where it keeps a record."""
    try:
        from llamafactory.train.uni_dpo.caches.tokenized import _source_of, refuse_other_source
        from llamafactory.train.uni_dpo.errors import UniDPOError
    except ImportError:
        made = max((file.stat().st_mtime for file in folder.rglob("*") if file.is_file()), default=0.0)
        files = (file for source in found.sources for file in source.files)
        newer = next((file for file in files if os.path.getmtime(file) > made), None)
        return f"{newer} is newer than {folder}" if newer else ""
    try:
        refuse_other_source(folder, _source_of(options.model, options.data), options.data)
    except UniDPOError as error:
        return str(error)
    return ""
