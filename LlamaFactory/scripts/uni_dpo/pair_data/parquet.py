"""Rows as Parquet, whose columns have one type each."""

import pickle
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from .errors import DataError
from .rows import BATCH, BATCH_BYTES


def write_parquet(path: Path, file: IO, rows: Iterable[dict[str, Any]]) -> int:
    """Write Parquet to a file that will be called `path`, and return how many rows there were.

    There are two passes, since the types of all columns are known only after the last row.
    """
    import pyarrow
    import pyarrow.parquet

    schema, count, batches = pyarrow.schema([]), 0, 0
    with tempfile.TemporaryFile() as scratch:
        for batch in _batches(rows):
            for name in dict.fromkeys(name for row in batch for name in row):
                schema = _with_column(schema, batch, name, path)
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


def _with_column(schema: Any, batch: list[dict[str, Any]], name: str, path: Path) -> Any:
    """Add a column of a batch to a schema, widening its type where that loses nothing."""
    import pyarrow

    column = pyarrow.schema([(name, _column(batch, name, path).type)])
    try:
        return pyarrow.unify_schemas([schema, column], promote_options="permissive")
    except pyarrow.ArrowException as error:
        raise _mixed(path, name, error) from error


def _column(batch: list[dict[str, Any]], name: str, path: Path, kind: Any = None) -> Any:
    """Return a column of a batch as an Arrow array of the given type, or of that which its values have."""
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
