"""What is stored in caches, and whether two runs took the same course."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pairs import log_history
from safetensors import safe_open


COMPARED = {"loss", "grad_norm", "rewards/chosen", "rewards/margins", "uni_dpo/reference_margin", "eval_loss"}


def stored(*folders: Path) -> dict[str, bytes]:
    """Return everything in caches with its content, but for the memory of file hashes."""
    files = (path for folder in folders for path in Path(folder).iterdir() if path.name != "hashes.json")
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in files}


def pairs_in(folder: Path) -> list[str]:
    """Name every pair in a cache of log-probs, as often as it is stored."""
    return [name for part in Path(folder).glob("*.parquet") for name in pq.read_table(part)["pair"].to_pylist()]


def log_probs(folder: Path) -> dict[str, list[float]]:
    """Return the log-probs of both answers of every pair."""
    tables = (pq.read_table(part).to_pylist() for part in Path(folder).glob("*.parquet"))
    return {row["pair"]: [row["chosen_logps"], row["rejected_logps"]] for rows in tables for row in rows}


def images_in(folder: Path) -> list[str]:
    """Name every image in a cache of features, as often as it is stored."""
    names = []
    for part in Path(folder).glob("*.safetensors"):
        with safe_open(part, "pt") as tensors:
            names += [name for name in tensors.keys() if not name.endswith(".grid")]  # noqa: SIM118
    return names


def assert_same_course(first: Path, second: Path, rel: float = 2e-4, but: set[str] = frozenset()) -> None:
    """Compare what two runs logged."""
    for a, b in zip(log_history(first), log_history(second), strict=True):
        for key in COMPARED & a.keys() - but:
            assert a[key] == pytest.approx(b[key], rel=rel, abs=1e-5), key
