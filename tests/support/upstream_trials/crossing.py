"""The table of checkpoints: written under each transformers, read under each, and by vLLM."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from common import ToolError
from demo.model import build
from install_overlay.kinds import LLAMAFACTORY

from .layers import Cell, Layer, run_alone
from .versions import last_words, make_world


SIDE = Path(__file__).with_name("crossing_side.py")
BOUND, BOUND_OF_VLLM = 1e-4, 1e-3  # of logits of different versions, and of log-probs of different engines, in float32


def make_crossing_world(folder: Path) -> None:
    """Make what every version starts from: a tiny model with tied embeddings, the same untied, and pairs."""
    make_world(folder)
    tied, untied = folder / "tied", folder / "untied"
    if untied.is_dir():
        return
    build(tied, preset="demo")  # vLLM on a CPU has no attention for the heads of the smaller one
    scratch = shutil.copytree(tied, folder / ".untied", dirs_exist_ok=True)
    config = json.loads((tied / "config.json").read_text()) | {"tie_word_embeddings": False}
    (scratch / "config.json").write_text(json.dumps(config, indent=2))
    weights = load_file(tied / "model.safetensors")
    like = next(tensor for name, tensor in weights.items() if name.endswith("embed_tokens.weight"))
    head = torch.randn(like.shape, generator=torch.Generator().manual_seed(1)) * like.shape[1] ** -0.5
    save_file(weights | {"lm_head.weight": head}, scratch / "model.safetensors", metadata={"format": "pt"})
    scratch.rename(untied)


def cross(folder: Path, versions: list[str], vllm: Path | None) -> dict[str, dict[str, Any]]:
    """Write under each version, and read under each and with vLLM.

    Args:
        folder: where environments and checkpoints go.
        versions: of transformers.
        vllm: the Python of an environment with vLLM; None to leave it out.

    Returns:
        For "A, kind" what "B, reader" found there: the largest difference, or a message.

    Raises:
        ToolError: an environment could not be made, or a version could not train.
    """
    world, table = folder / "world", {}
    make_crossing_world(world)
    layers = {version: Layer(folder / f"crossing-{version}") for version in versions}
    readers = {version: (layer.python, "read") for version, layer in layers.items()}
    readers |= {"vLLM": (vllm, "vllm")} if vllm else {}
    with tqdm(total=len(layers) * (1 + len(readers)), unit="side") as bar:
        for version, layer in layers.items():
            bar.set_description(f"written by transformers {version}")
            cell = Cell(LLAMAFACTORY, "0.9.5", None, version)
            layer.make()
            layer.add_upstream(cell)
            layer.lay_overlay(cell)
            _side(layer.python, "write", world, layer.folder / "checkpoints")
            bar.update()
        for writer, layer in layers.items():
            for reader, (python, side) in readers.items():
                bar.set_description(f"written by {writer}, read by {reader}")
                for kind, found in _side(python, side, world, layer.folder / "checkpoints").items():
                    row = table.setdefault(f"{writer}, {kind}", {})
                    row |= {name if name == "vLLM" else f"{reader}, {name}": seen for name, seen in found.items()}
                bar.update()
    return table


def _side(python: Path, side: str, world: Path, folder: Path) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    done = run_alone([str(python), str(SIDE), side, str(world), str(folder)], folder, seconds=3600)
    if done.returncode != 0:
        raise ToolError(f"{side} with {python}: {last_words(done.stderr)}")
    return json.loads(done.stdout.strip().splitlines()[-1]) if side != "write" else {}


def crossing_table(table: dict[str, dict[str, Any]]) -> str:
    """Return the table in Markdown, and under it what does not hold."""
    columns = list(dict.fromkeys(column for row in table.values() for column in row))
    lines = [["written by, kind", *columns], ["---"] * (len(columns) + 1)]
    notes = []
    for name, row in table.items():
        lines.append([name, *(_shown(row[column]) if column in row else "–" for column in columns)])
        notes += [f"- {name}, {column}: {seen}" for column, seen in row.items() if not holds(column, seen)]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), *([""] if notes else []), *notes])


def holds(column: str, seen: Any) -> bool:
    """Tell whether a difference is within its bound."""
    return not isinstance(seen, str) and seen <= (BOUND_OF_VLLM if column == "vLLM" else BOUND)


def _shown(seen: Any) -> str:
    return "**see below**" if isinstance(seen, str) else f"{seen:.0e}"
