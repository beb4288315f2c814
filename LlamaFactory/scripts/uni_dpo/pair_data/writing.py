"""Writing files that are there entirely or not at all."""

import contextlib
import glob
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from .errors import DataError
from .rows import SUFFIXES


@contextlib.contextmanager
def whole_file(path: Path, mode: str = "w") -> Iterator[IO]:
    """Open a file for writing that appears under its name when the block ends well, and never otherwise.

    Args:
        path: where it will be; folders above it are made. A link is followed, so that what it names is replaced.
        mode: "w" (UTF-8) or "wb".
    """
    path = Path(os.path.realpath(path))
    _require_free(path)
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = part_of(path)
        with part.open(mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            part.chmod(path.stat().st_mode)
        os.replace(part, path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            part and part.unlink(missing_ok=True)


def part_of(path: Path) -> Path:
    """Return a name for a file while it is being written; those of killed runs are removed."""
    import psutil

    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        number = left.name.split(".")[-2]
        if number.isdigit() and not psutil.pid_exists(int(number)):
            left.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}.part")


@contextlib.contextmanager
def keeping_original(path: Path) -> Iterator[Path]:
    """Keep what a file is beside it, as `NAME.original.SUFFIX`, while the block replaces it.

    Only the first original is kept: a file that is replaced a second time is no original any more. If the block fails,
    the file is what it was, and nothing is left beside it.
    """
    path = Path(os.path.realpath(path))
    original = path.with_name(f"{path.stem}.original{path.suffix}")
    there = os.path.lexists(original)
    try:
        if not there:
            with path.open("rb") as file, whole_file(original, "wb") as copy:
                shutil.copyfileobj(file, copy, 1 << 20)
        yield original
    except BaseException:
        if not there:
            original.unlink(missing_ok=True)
        raise


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows as `.json` (an array), `.jsonl` or `.parquet`, and return how many there were."""
    from .parquet import write_parquet

    path = Path(path)
    kind = path.suffix.lower()
    _require_suffix(path, SUFFIXES)
    with whole_file(path, "wb" if kind == ".parquet" else "w") as file:
        if kind == ".parquet":
            return write_parquet(path, file, rows)
        count = 0
        for row in rows:
            before = "" if kind == ".jsonl" else ",\n" if count else "[\n"
            file.write(before + to_json(row, path) + ("\n" if kind == ".jsonl" else ""))
            count += 1
        if kind == ".json":
            file.write("\n]\n" if count else "[]\n")
        return count


def to_json(row: dict[str, Any], path: Path) -> str:
    """Return a row as one line of JSON; `path` is where it will be, for messages."""
    try:
        text = json.dumps(row, ensure_ascii=False)
        text.encode()  # half a surrogate pair cannot be written
    except UnicodeEncodeError:
        return json.dumps(row)
    except (TypeError, ValueError) as error:
        column = next((f', column "{name}"' for name, value in row.items() if not _fits_json(value)), "")
        what = f"a value does not fit into JSON ({error}). Write .parquet instead."
        raise DataError(f"{path}{column}: {what}") from error
    return text


def _fits_json(value: Any) -> bool:
    try:
        return bool(json.dumps(value))
    except (TypeError, ValueError):
        return False


def require_writable(path: Path, suffixes: Iterable[str] = SUFFIXES) -> None:
    """Refuse an output before any work goes into it."""
    _require_suffix(path, suffixes)
    path = Path(os.path.realpath(path))
    _require_free(path)
    folder = next(parent for parent in path.parents if os.path.lexists(parent))
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
        raise DataError(f"cannot write {path}: {folder} is not a folder that you may write in")


def require_new_name(output: Path, others: Iterable[Path | None]) -> None:
    """Refuse to write over one of the other files of a command, which is read or written as well."""
    if any(other is not None and os.path.realpath(output) == os.path.realpath(other) for other in others):
        raise DataError(f"{output} is also read, or written twice, by this command. Give the output another name.")


def require_outputs(read: Iterable[Path], *outputs: tuple[Path | None, Iterable[str]]) -> None:
    """Refuse outputs that could not be written hours later, or would replace what is read, or one another.

    Args:
        read: what the command reads.
        outputs: each with the endings that its name may have; None for one that is not wanted.

    Raises:
        DataError: there is such an output.
    """
    taken = [*read]
    for path, suffixes in outputs:
        if path:
            require_writable(path, suffixes)
            require_new_name(path, taken)
            taken.append(path)


def _require_suffix(path: Path, suffixes: Iterable[str]) -> None:
    if path.suffix.lower() not in suffixes:
        raise DataError(f"{path}: the name must end in {' or '.join(suffixes)}, which says how it is written.")


def _require_free(path: Path) -> None:
    """Refuse a place where something else than a file is; a link that is left here leads around in a circle."""
    if os.path.isdir(path) or os.path.islink(path):
        raise DataError(f"cannot write {path}: there is a folder of that name, or a link that leads nowhere")
    if os.path.exists(path) and not os.path.isfile(path):
        raise DataError(f"cannot write {path}: what is there is not a file")
