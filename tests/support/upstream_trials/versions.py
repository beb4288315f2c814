"""Try the overlays with every version of upstream that they are meant for, and print the table of docs/versions.md.

For each pair of an upstream (LlamaFactory 0.9.4 and 0.9.5, ms-vlmeval, and checkouts of yours) and a transformers that
it accepts, this makes an environment, lays the overlay on with the installer, looks for every name of the contract
(tests/support/contract_list.py), and runs: with LlamaFactory two steps with its own loss before and after the overlay,
which have to be bit-equal, two with Uni-DPO on both routes to log-probs, and one of them again from its checkpoint;
with VLMEvalKit two questions to a tiny model, one by one and as a batch.

With --checkpoints it prints another table: checkpoints written under each version of transformers (full with tied and
untied embeddings, LoRA, LoRA with embeddings), read under each by training, resuming, evaluation and scoring, and by
vLLM. A number is the largest difference from what the trained model itself said.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.version import Version
from pairs import make_rows, options, write_dataset
from tqdm import tqdm

from common import ROOT, ToolError, write_json
from demo.model import build
from install_overlay.kinds import KINDS, LLAMAFACTORY

from .layers import TRANSFORMERS, Cell, Layer, cells


EPILOG = """\
examples:
  .venv/bin/python scripts/versions.py
      LlamaFactory 0.9.4 and 0.9.5, and ms-vlmeval: about a minute for each cell
  .venv/bin/python scripts/versions.py --checkout ~/LLaMA-Factory --checkout ~/VLMEvalKit
      and these checkouts, which are copied and not touched
  .venv/bin/python scripts/versions.py --only llamafactory --llamafactory 0.9.5 --transformers 5.6.0
      one cell
  .venv/bin/python scripts/versions.py --checkpoints --vllm .venv-vllm/bin/python
      checkpoints that cross between versions and to vLLM: about half an hour

Environments are layers over the one that runs this (scripts/setup.sh makes it), with only the packages that differ:
some 0.2 GB each, in outputs/versions. The package index has to be reachable. What has been tried with this very
overlay is not tried again, so an interrupted run resumes.

exit codes: 0 every cell works or is refused with the version in the message; 1 one fails; 2 wrong arguments.
"""

SUPPORT = ROOT / "tests" / "support"
REFUSALS = ("The Uni-DPO overlay does not", "UniDPOVLM does not support")
SAME = 1e-4  # losses of different routes and versions, in float32
QUESTIONS = ("What is number 0?", "What number is this, and why?")
WORDS = {"works": "works", "refused": "refused by name", "fails": "**fails**"}
CROSSED = ("4.57.6", "5.0.0", "5.5.4")


def main(arguments: list[str] | None = None) -> int:
    """Try all cells, print the tables and return the exit code."""
    given = parser().parse_args(arguments)
    folder = given.folder.resolve()
    kinds = [KINDS[name] for name in given.only or KINDS]
    try:
        if given.checkpoints:
            from .crossing import cross, crossing_table, holds

            vllm = given.vllm and Path(os.path.abspath(given.vllm))  # not resolved: a link to Python is an environment
            table = cross(folder, given.transformers or list(CROSSED), vllm)
            print(crossing_table(table))
            return int(not all(holds(column, seen) for row in table.values() for column, seen in row.items()))
        vlmeval = metadata.version("ms-vlmeval") if KINDS["vlmeval"] in kinds else ""
        checkouts = [path.resolve() for path in given.checkout]
        chosen = cells(kinds, given.llamafactory, checkouts, given.transformers or list(TRANSFORMERS), vlmeval)
    except metadata.PackageNotFoundError:
        print("error: no ms-vlmeval here; scripts/setup.sh installs it, or --only llamafactory", file=sys.stderr)
        return 2
    except ToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    make_world(folder / "world")
    results = []
    with tqdm(chosen, unit="cell") as bar:
        for cell in bar:
            what = f"{cell.upstream}, transformers {cell.transformers}"
            bar.set_description(what)
            results.append((cell, tried(cell, folder, given.again)))
            bar.write(f"{results[-1][1]['state']:8}{what} {results[-1][1]['note']}", sys.stderr)
    print(f"{tables(results)}\n\n{summary(results)}")
    return int(any(found["state"] == "fails" for _, found in results))


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    wide = argparse.RawDescriptionHelpFormatter
    whole = argparse.ArgumentParser(description=__doc__, epilog=EPILOG, formatter_class=wide)
    add = whole.add_argument
    checkout = "a checkout of LlamaFactory or VLMEvalKit, too; may be given several times"
    add("--checkout", action="append", default=[], type=Path, metavar="DIR", help=checkout)
    releases = "versions of LlamaFactory on the package index (default: %(default)s)"
    add("--llamafactory", nargs="+", default=["0.9.4", "0.9.5"], metavar="VERSION", help=releases)
    transformers = "versions of transformers; of each minor version the newest that upstream accepts is tried"
    transformers += f" (default: {' '.join(TRANSFORMERS)}; with --checkpoints: {' '.join(CROSSED)})"
    add("--transformers", nargs="+", metavar="VERSION", help=transformers)
    add("--checkpoints", action="store_true", help="the table of checkpoints instead")
    add("--vllm", type=Path, metavar="PYTHON", help="of an environment with vLLM (scripts/setup.sh --vllm), for that")
    add("--only", nargs="+", choices=KINDS, help="one of the two upstreams (default: both)")
    add("--again", action="store_true", help="try what has been tried before, too")
    place = ROOT / "outputs" / "versions"
    add("--folder", default=place, type=Path, help="where environments go (default: %(default)s)")
    return whole


def tried(cell: Cell, folder: Path, again: bool) -> dict[str, Any]:
    """Return what came of a cell, now or when it was last tried with this overlay and this checkout."""
    stamp, note = stamp_of(cell), folder / f"{cell.name}.json"
    if note.is_file() and not again:
        known = json.loads(note.read_text())
        if known.pop("stamp") == stamp:
            return known
    found = Trial(cell, folder / cell.name, folder / "world").outcome()
    write_json(note, found | {"stamp": stamp})
    return found


def stamp_of(cell: Cell) -> str:
    """Return a hash of all that an outcome depends on: the overlay's code, the contract and a checkout's code."""
    folders = [cell.kind.overlay / cell.kind.inside.partition("/")[0]]
    folders += [cell.checkout / cell.kind.inside] if cell.checkout else []
    files = [path for folder in folders for path in folder.rglob("*.py")]
    files += [SUPPORT / name for name in ("contract.py", "contract_list.py", "upstream_names.py")]
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in sorted(files))).hexdigest()


class Trial:
    """Everything that one cell goes through.

    Args:
        cell: What to try.
        folder: The cell's own folder.
        world: The folder with the tiny model and the pairs, as `make_world` makes it.
    """

    def __init__(self, cell: Cell, folder: Path, world: Path):
        """Prepare; `outcome` does the work."""
        self.cell, self.folder, self.world = cell, folder, world
        self.layer = Layer(folder)

    def outcome(self) -> dict[str, Any]:
        """Try the cell and say whether it works, is refused, or fails, and with what."""
        started = time.monotonic()
        try:
            self.layer.make()
            self.layer.add_upstream(self.cell)
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
        losses = {name: [entry["loss"] for entry in run["log"] if "loss" in entry] for name, run in found.items()}
        seen = {"losses": losses["uni_dpo"]}
        if contract := self._contract("training"):
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
        how = {"model_path": str(self.world / "model"), "max_new_tokens": 8, "device": "cpu"}
        (self.folder / "request.json").write_text(
            json.dumps({"asked": {"do": "answers", "options": how, "messages": messages}})
        )
        done = self.layer.run(str(SUPPORT / "eval_probe.py"), "request.json", "answer.json", folder=self.folder)
        if done.returncode != 0:
            problem = last_words(done.stderr)
            return "refused" if any(word in problem for word in REFUSALS) else "fails", problem, {}
        answers = json.loads((self.folder / "answer.json").read_text())["asked"]
        if contract := self._contract("evaluation"):
            return "fails", f"contract: {contract}", {}
        if answers["single"] != answers["batch"]:
            return "fails", "a batch gives other answers than one row at a time", {}
        return "works", "", {"answers": answers["batch"]}

    def _options(self, name: str, **changes: Any) -> dict[str, Any]:
        return options(self.world / "model", self.world / "pairs", Path(name), max_steps=2, **changes)

    def _train(self, name: str, runs: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
        """Train in a process of its own; return the outcomes by run, or None and the last words."""
        folder = self.folder / name
        folder.mkdir()
        runs = {run: options | {"output_dir": str(folder / run)} for run, options in runs.items()}
        (folder / "runs.json").write_text(json.dumps(runs))
        done = self.layer.run(str(SUPPORT / "run_many.py"), "runs.json", "results.json", folder=folder)
        if done.returncode != 0:
            return None, last_words(done.stderr)
        results = json.loads((folder / "results.json").read_text())
        home = Path(results.pop("llamafactory"))
        if self.folder not in home.parents:
            raise ToolError(f"the LlamaFactory that ran is not the cell's own: {home}")
        return results, ""

    def _contract(self, part: str) -> str:
        done = self.layer.run(str(SUPPORT / "contract.py"), part)
        return (
            "" if done.returncode == 0 else "; ".join(done.stdout.strip().splitlines()[-5:]) or last_words(done.stderr)
        )


def last_words(stderr: str) -> str:
    """Return the message in which a process ended: ours whole, of a traceback the last line."""
    lines = [line for line in stderr.strip().splitlines() if line.strip()]
    ours = [line[line.index(start) :] for line in lines for start in REFUSALS if start in line]
    return ours[-1] if ours else lines[-1][:300] if lines else "no message"


def make_world(folder: Path) -> None:
    """Make a tiny model and twelve pairs, unless they are there."""
    if not (folder / "pairs").is_dir():
        scratch = folder.with_name(f".{folder.name}")
        shutil.rmtree(scratch, ignore_errors=True)
        build(scratch / "model", preset="test")
        write_dataset(scratch / "pairs", make_rows(scratch / "pairs", 12))
        scratch.rename(folder)


def tables(results: Sequence[tuple[Cell, dict[str, Any]]]) -> str:
    """Return a table in Markdown for each upstream, and under it what failed with what.

    Args:
        results: Cells and what `Trial.outcome` said of them.
    """
    parts = []
    for package in dict.fromkeys(cell.kind.package for cell, _ in results):
        here = [(cell, found) for cell, found in results if cell.kind.package == package]
        versions = sorted({cell.transformers for cell, _ in here}, key=Version)
        state = {(cell.upstream, cell.transformers): WORDS[found["state"]] for cell, found in here}
        lines = [["", *(f"transformers {version}" for version in versions)], ["---"] * (len(versions) + 1)]
        for upstream in dict.fromkeys(cell.upstream for cell, _ in here):
            lines.append([upstream, *(state.get((upstream, version), "–") for version in versions)])
        ranges = ", ".join(f"{name} {wanted}" for name, wanted in KINDS[package].supported.items())
        parts += [*(f"| {' | '.join(line)} |" for line in lines), "", f"Supported: {ranges}.", ""]
    noted = [(cell, found) for cell, found in results if found["state"] != "works"]
    parts += [f"- {cell.upstream}, transformers {cell.transformers}: {found['note']}" for cell, found in noted]
    return "\n".join(parts).strip()


def summary(results: Sequence[tuple[Cell, dict[str, Any]]]) -> str:
    """Return counts of each state, and how far losses are apart, in words."""
    states = [found["state"] for _, found in results]
    counts = ", ".join(f"{states.count(state)} {WORDS[state].strip('*')}" for state in WORDS if state in states)
    losses = [found["losses"] for _, found in results if "losses" in found]
    spread = max((max(step) - min(step) for step in zip(*losses, strict=False)), default=None)
    apart = "" if spread is None else f"; losses of uni_dpo differ by at most {spread:.1e}"
    return f"{len(results)} cells: {counts}{apart}"
