"""Results on the disk: one small file a cell while the study runs, and all of them in one for the repository."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common import ToolError
from demo.writers import write_whole

from .plan import Cell


Result = dict[str, Any]


class Results:
    """What is known of cells, from a folder with a file each, or from one file of all."""

    def __init__(self, path: Path):
        """Read from `path`: a folder of a study that runs, or a .jsonl file.

        Raises:
            ToolError: a file is damaged, or the one file is not there.
        """
        self.path, self._known = path, {}
        if path.suffix == ".jsonl" and not path.is_file():
            raise ToolError(f"{path} is not there: `study.py run` and `study.py gather` make it")
        files = [path] if path.suffix == ".jsonl" else sorted(path.glob("*.json"))
        for file in files:
            try:
                results = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
                self._known.update({result["key"]: result for result in results})
            except (ValueError, KeyError, TypeError) as error:
                raise ToolError(f"{file} is damaged ({error}): remove it, and its cells are run again") from error

    def __contains__(self, cell: Cell) -> bool:
        """Whether a cell is done."""
        return cell.key in self._known

    def __len__(self) -> int:
        """How many cells are done."""
        return len(self._known)

    def of(self, cells: Iterable[Cell]) -> list[Result]:
        """The results of those cells that are done, in their order."""
        return [self._known[cell.key] for cell in cells if cell in self]

    def all(self) -> list[Result]:
        """Everything, in the order of the keys."""
        return [self._known[key] for key in sorted(self._known)]

    def test_seeds(self) -> list[int]:
        """The seeds that were examined on test scenes."""
        return sorted({result["seed"] for result in self.all() if result["measure"] == "test"})

    def add(self, cell: Cell, measured: Result) -> None:
        """Keep what was measured, in a file that is there whole or not at all."""
        told = {"seed": cell.seed, "condition": cell.condition, "options": dict(cell.options)}
        result = self._known[cell.key] = {"key": cell.key, "measure": cell.measure, **told, **measured}
        write_whole(self.path / f"{cell.key}.json", lambda file: file.write(json.dumps(result) + "\n"))

    def gather(self, path: Path) -> None:
        """Write all of them into one file."""
        lines = [json.dumps(self._known[key]) + "\n" for key in sorted(self._known)]
        write_whole(path, lambda file: file.writelines(lines))
