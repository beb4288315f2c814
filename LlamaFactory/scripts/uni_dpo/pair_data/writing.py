"""Writing files that are there entirely or not at all."""

import contextlib
import glob
import json
import os
import pickle
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import psutil

from .errors import DataError
from .rows import BATCH, BATCH_BYTES, SUFFIXES


@contextlib.contextmanager
def whole_file(path: Path, mode: str = "w") -> Iterator[IO]:
    """Open a file for writing that appears under its name when the block ends well, and never otherwise.

    Args:
        path: where it will be; folders above it are made. A link is followed, so that what it names is replaced.
        mode: "w" (UTF-8) or "wb".

    Raises:
        DataError: the place cannot be written.
    """
    path = Path(os.path.realpath(path))
    _require_free(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = part_of(path)
        file = part.open(mode, encoding=None if "b" in mode else "utf-8")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            part.chmod(path.stat().st_mode)
        os.replace(part, path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows as `.json` (an array), `.jsonl` or `.parquet`, and return how many there were.

    Raises:
        DataError: the name ends otherwise, the place cannot be written, or a value does not fit the format.
    """
    path = Path(path)
    writers = {".json": _write_array, ".jsonl": _write_lines, ".parquet": _write_parquet}
    if path.suffix.lower() not in writers:
        raise DataError(f"{path}: the name must end in {', '.join(SUFFIXES)}, which says how it is written.")
    return writers[path.suffix.lower()](path, rows)


def require_writable(path: Path, suffixes: Iterable[str] = SUFFIXES) -> None:
    """Refuse an output before any work goes into it.

    Args:
        path: where a file is to be written.
        suffixes: what its name may end in.

    Raises:
        DataError: its name ends otherwise, there is a folder or something else that is no file, or one may not write.
    """
    if path.suffix.lower() not in suffixes:
        raise DataError(f"{path}: the name must end in {' or '.join(suffixes)}, which says how it is written.")
    path = Path(os.path.realpath(path))
    _require_free(path)
    folder = next(parent for parent in path.parents if os.path.lexists(parent))
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
        raise DataError(f"cannot write {path}: {folder} is not a folder that you may write in")


def require_new_name(output: Path, others: Iterable[Path | None]) -> None:
    """Refuse to write over what is being read, or written as well.

    Args:
        output: what is to be written.
        others: the other files of the command; None for one that is not asked for.

    Raises:
        DataError: the output is one of them.
    """
    if any(other is not None and os.path.realpath(output) == os.path.realpath(other) for other in others):
        raise DataError(f"{output} is also read, or written twice, by this command. Give the output another name.")


def _require_free(path: Path) -> None:
    """Refuse a place where something else than a file is; a link that is left here leads around in a circle."""
    if os.path.isdir(path) or os.path.islink(path):
        raise DataError(f"cannot write {path}: there is a folder of that name, or a link that leads nowhere")
    if os.path.exists(path) and not os.path.isfile(path):
        raise DataError(f"cannot write {path}: what is there is not a file")


def part_of(path: Path) -> Path:
    """Return a name for a file while it is being written; those of killed runs are removed."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        number = left.name.split(".")[-2]
        if number.isdigit() and not psutil.pid_exists(int(number)):
            left.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def _write_array(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    count = 0
    with whole_file(path) as file:
        for row in rows:
            file.write((",\n" if count else "[\n") + to_json(row, path))
            count += 1
        file.write("\n]\n" if count else "[]\n")
    return count


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    count = 0
    with whole_file(path) as file:
        for row in rows:
            file.write(to_json(row, path) + "\n")
            count += 1
    return count


def to_json(row: dict[str, Any], path: Path) -> str:
    """Return a row as one line of JSON.

    Raises:
        DataError: it holds bytes (an image), which JSON cannot.
    """
    try:
        text = json.dumps(row, ensure_ascii=False)
        text.encode()  # half a surrogate pair cannot be written
    except UnicodeEncodeError:
        return json.dumps(row)
    except (TypeError, ValueError) as error:
        column = next((f', column "{name}"' for name, value in row.items() if not _fits_json(value)), "")
        raise DataError(
            f"{path}{column}: a value does not fit into JSON ({error}). Write .parquet instead."
        ) from error
    return text


def _fits_json(value: Any) -> bool:
    try:
        return bool(json.dumps(value))
    except (TypeError, ValueError):
        return False


def _write_parquet(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write Parquet in two passes, since the types of all columns are known only after the last row."""
    import pyarrow
    import pyarrow.parquet

    schema, count, batches = pyarrow.schema([]), 0, 0
    with tempfile.TemporaryFile() as scratch, whole_file(path, "wb") as file:
        for batch in _batches(rows):
            schema = _with_columns(schema, batch, path)
            pickle.dump(batch, scratch)
            count, batches = count + len(batch), batches + 1
        scratch.seek(0)
        try:
            with pyarrow.parquet.ParquetWriter(file, schema) as writer:
                for _ in range(batches):
                    batch = pickle.load(scratch)
                    columns = [_column(batch, column.name, path, column.type) for column in schema]
                    writer.write_table(pyarrow.table(columns, schema=schema))
        except pyarrow.ArrowException as error:  # an object without fields in every row
            raise DataError(f"{path}: not possible in Parquet ({error}). Write .jsonl instead.") from error
    return count


def _with_columns(schema: Any, batch: list[dict[str, Any]], path: Path) -> Any:
    """Add the columns of a batch to a schema, widening their types where that loses nothing.

    Raises:
        DataError: a column holds values that have no common type.
    """
    import pyarrow

    for name in dict.fromkeys(name for row in batch for name in row):
        column = pyarrow.schema([(name, _column(batch, name, path).type)])
        try:
            schema = pyarrow.unify_schemas([schema, column], promote_options="permissive")
        except pyarrow.ArrowException as error:
            raise _mixed(path, name, error) from error
    return schema


def _column(batch: list[dict[str, Any]], name: str, path: Path, kind: Any = None) -> Any:
    """Return a column of a batch as an Arrow array of the given type, or of that which its values have.

    Raises:
        DataError: the values have no common type.
    """
    import pyarrow

    values = [row.get(name) for row in batch]
    try:
        if kind is not None and _changes(values, kind):
            raise ValueError("text beside bytes, or true and false beside numbers")
        return pyarrow.array(values, kind)
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:
        raise _mixed(path, name, error) from error


def _changes(values: Iterable[Any], kind: Any) -> bool:
    """Tell whether Arrow would turn a value into something else instead of refusing it, at any depth."""
    from pyarrow import types

    if types.is_list(kind):
        return _changes((item for value in values if value for item in value), kind.value_type)
    if types.is_struct(kind):
        values = [value for value in values if value]
        return any(_changes((value.get(field.name) for value in values), field.type) for field in kind)
    silent = str if types.is_binary(kind) else bytes if types.is_string(kind) else bool
    return not types.is_boolean(kind) and any(isinstance(value, silent) for value in values)


def _mixed(path: Path, column: str, error: Exception) -> DataError:
    return DataError(
        f'{path}, column "{column}": Parquet wants one type a column ({error}). Write .jsonl instead, or make all its '
        "values alike."
    )


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch, size = [], 0
    for row in rows:
        batch.append(row)
        size += _bytes_in(row)
        if len(batch) == BATCH or size > BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _bytes_in(value: Any) -> int:
    """Return how many bytes of images are in a value, at any depth."""
    if isinstance(value, bytes):
        return len(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(_bytes_in, parts))
