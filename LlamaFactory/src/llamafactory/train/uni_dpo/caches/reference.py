"""Log-probs of pairs under the reference model, in a folder of Parquet files."""

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq

from .store import Store


SCHEMA = pa.schema(
    [
        ("pair", pa.string()),
        ("chosen_logps", pa.float64()),  # sums over an answer's tokens, in nats
        ("rejected_logps", pa.float64()),
        ("chosen_tokens", pa.int32()),
        ("rejected_tokens", pa.int32()),
    ]
)


class ReferenceCache:
    """A store of reference log-probs by the names of pairs."""

    def __init__(self, store: Store):
        """Open the folder; call `load` to read what is in it."""
        self._store = store
        self._known: dict[str, tuple[float, float]] = {}
        self._waiting: list[tuple[str, float, float, int, int]] = []

    def load(self) -> None:
        """Read all parts, also those that other processes have written since."""
        for part in self._store.parts("parquet"):
            table = pq.read_table(part, columns=SCHEMA.names[:3])
            pairs, chosen, rejected = (column.to_pylist() for column in table.columns)
            self._known |= dict(zip(pairs, zip(chosen, rejected, strict=True), strict=True))

    def missing(self, pairs: Iterable[str]) -> dict[str, int]:
        """Find the pairs without log-probs: name and place, each once."""
        places: dict[str, int] = {}
        for place, pair in enumerate(pairs):
            if pair not in self._known:
                places.setdefault(pair, place)
        return places

    def columns(self, pairs: Iterable[str]) -> tuple[list[float], list[float]]:
        """Look up chosen and rejected log-probs of known pairs.

        Raises:
            KeyError: a pair is missing.
        """
        found = [self._known[pair] for pair in pairs]
        return [chosen for chosen, _ in found], [rejected for _, rejected in found]

    def add(self, row: tuple[str, float, float, int, int]) -> None:
        """Keep a row as in `SCHEMA` until the next `flush`."""
        self._waiting.append(row)

    def flush(self) -> None:
        """Write the waiting rows as one part."""
        if self._waiting:
            columns = [list(column) for column in zip(*self._waiting, strict=True)]
            with self._store.writing(self._store.new_part("parquet")) as temporary:
                pq.write_table(pa.table(columns, schema=SCHEMA), temporary)
            self._waiting.clear()
