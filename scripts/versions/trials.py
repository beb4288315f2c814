"""What is tried in one cell of the matrix, and what came of it."""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from common import ToolError
from install_overlay.kinds import LLAMAFACTORY

from .cells import Cell
from .layers import ROOT, Layer


TESTS = ROOT / "tests" / "support"
REFUSALS = ("The Uni-DPO overlay does not", "UniDPOQwen2VL does not support")
SAME = 1e-4  # losses of different routes and versions, in float32

QUESTIONS = ("What is number 0?", "What number is this, and why?")


class Trial:
    """Everything that one cell goes through.

    Args:
        cell: What to try.
        folder: The cell's own folder.
        world: The folder with the tiny model and the pairs, as `make_world` makes it.
    """

    def __init__(self, cell: Cell, folder: Path, world: Path):
        """Take note; `outcome` does the work."""
        self.cell, self.folder, self.world = cell, folder, world
        self.layer = Layer(folder)

    def outcome(self) -> dict[str, Any]:
        """Try the cell and say whether it works, is refused by name, or fails, and with what."""
        started = time.monotonic()
        try:
            self.layer.make(self.cell)
            attempt = self._training if self.cell.kind is LLAMAFACTORY else self._evaluation
            state, note, seen = attempt()
        except ToolError as error:
            state, note, seen = "fails", str(error).strip().splitlines()[-1], {}
        return {"state": state, "note": note, **seen, "seconds": round(time.monotonic() - started)}

    def _training(self) -> tuple[str, str, dict[str, Any]]:
        stock = self._options("sigmoid", pref_loss="sigmoid", pref_beta=0.1)
        before, _ = self._train("pristine", {"sigmoid": stock})
        self.layer.lay_overlay(self.cell)
        after, problem = self._train("overlaid", {"sigmoid": stock})
        if before is None or after is None:
            return "fails", f"LlamaFactory's own loss: {problem}", {}
        if before != after:
            return "fails", "LlamaFactory's own loss gives other numbers with the overlay", {}
        ours = {
            "uni_dpo": self._options("uni_dpo", save_strategy="steps", save_steps=1),
            "plain": self._options("plain", pref_forward="upstream"),
            "resumed": self._options("resumed", resume_from_checkpoint=str(self.folder / "ours/uni_dpo/checkpoint-1")),
        }
        found, problem = self._train("ours", ours)
        if found is None:
            return "refused" if problem.startswith(REFUSALS) else "fails", problem, {}
        contract = self._contract("training")
        losses = {name: [entry["loss"] for entry in run["log"] if "loss" in entry] for name, run in found.items()}
        seen = {"losses": losses["uni_dpo"]}
        if contract:
            return "fails", f"contract: {contract}", seen
        if max(abs(a - b) for a, b in zip(losses["uni_dpo"], losses["plain"], strict=True)) > SAME:
            return "fails", f"pref_forward changes the loss: {losses['uni_dpo']}, {losses['plain']}", seen
        if found["uni_dpo"]["weights"] != found["resumed"]["weights"]:
            return "fails", "a resumed run ends with other weights", seen
        return "works", "", seen

    def _evaluation(self) -> tuple[str, str, dict[str, Any]]:
        self.layer.lay_overlay(self.cell)
        picture = str(next((self.world / "pairs").glob("*.png")))
        messages = [[{"type": "image", "value": picture}, {"type": "text", "value": text}] for text in QUESTIONS]
        options = {"model_path": str(self.world / "model"), "max_new_tokens": 8, "device": "cpu"}
        request = {"asked": {"do": "answers", "options": options, "messages": messages}}
        (self.folder / "request.json").write_text(json.dumps(request))
        files = [str(self.folder / name) for name in ("request.json", "answer.json")]
        done = self.layer.run(str(TESTS / "eval_probe.py"), *files, folder=self.folder)
        if done.returncode != 0:
            problem = last_words(done.stderr)
            return "refused" if any(word in problem for word in REFUSALS) else "fails", problem, {}
        answers = json.loads((self.folder / "answer.json").read_text())["asked"]
        contract = self._contract("evaluation")
        if contract:
            return "fails", f"contract: {contract}", {}
        if answers["single"] != answers["batch"]:
            return "fails", "a batch gives other answers than one row at a time", {}
        return "works", "", {"answers": answers["batch"]}

    def _options(self, name: str, **changes: Any) -> dict[str, Any]:
        from pairs import options

        return options(self.world / "model", self.world / "pairs", Path(name), max_steps=2, **changes)

    def _train(self, name: str, runs: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
        """Train in a process of its own; return the outcomes by run, or None and the last words."""
        folder = self.folder / name
        folder.mkdir()
        runs = {run: options | {"output_dir": str(folder / run)} for run, options in runs.items()}
        (folder / "runs.json").write_text(json.dumps(runs))
        done = self.layer.run(str(TESTS / "run_many.py"), "runs.json", "results.json", folder=folder)
        if done.returncode != 0:
            return None, last_words(done.stderr)
        results = json.loads((folder / "results.json").read_text())
        home = Path(results.pop("llamafactory"))
        if self.folder not in home.parents:
            raise ToolError(f"the LlamaFactory that ran is not the cell's own: {home}")
        return results, ""

    def _contract(self, part: str) -> str:
        done = self.layer.run(str(TESTS / "contract.py"), part)
        if done.returncode == 0:
            return ""
        return "; ".join(done.stdout.strip().splitlines()[-5:]) or last_words(done.stderr)


def last_words(stderr: str) -> str:
    """Return the message in which a process ended: ours whole, of a traceback the last line."""
    lines = [line for line in stderr.strip().splitlines() if line.strip()]
    for line in reversed(lines):
        if any(word in line for word in REFUSALS):
            return line[line.index("The Uni-DPO") if "The Uni-DPO" in line else line.index("UniDPOQwen2VL") :]
    return lines[-1][:300] if lines else "no message"


def make_world(folder: Path) -> None:
    """Make a tiny model and twelve pairs, unless they are there."""
    if (folder / "pairs").is_dir():
        return
    sys.path.insert(0, str(TESTS))
    from pairs import make_rows, write_dataset

    from demo.model import build

    scratch = folder.with_name(f".{folder.name}")
    shutil.rmtree(scratch, ignore_errors=True)
    build(scratch / "model", preset="test")
    write_dataset(scratch / "pairs", make_rows(scratch / "pairs", 12))
    scratch.rename(folder)
