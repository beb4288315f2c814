"""Prediction files and metric files, where and how VLMEvalKit has them."""

import hashlib
import importlib.util
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import smp
from ..dataset import SUPPORTED_DATASETS
from .checks import require_numbers
from .errors import UniDPOError, in_context
from .files import read_json, replacing
from .judges import OFFLINE_JUDGE
from .reading import as_written


NOTES = "answers"  # our folder beside VLMEvalKit's files
DOES_NOT_JUDGE = ("nproc", "verbose")


@dataclass(frozen=True)
class Results:
    """The files of one model and one data set.

    Attributes:
        home: The model's folder, `WORK_DIR/MODEL`.
        folder: Where this VLMEvalKit keeps predictions: `home` (ms-vlmeval) or a folder of a run in it (checkouts).
        model: The model's name.
        data: The data set's name.
    """

    home: Path
    folder: Path
    model: str
    data: str

    @classmethod
    def of(cls, work_dir: Path, model: str, data: str) -> "Results":
        """Find or make the folders."""
        home = work_dir / model
        (home / NOTES).mkdir(parents=True, exist_ok=True)
        # ms-vlmeval has `vlmeval.run` and one folder for a model; a checkout has run.py and a folder for each run.
        folder = home if importlib.util.find_spec("vlmeval.run") else home / _run_name(home)
        folder.mkdir(exist_ok=True)
        return cls(home, folder, model, data)

    @property
    def predictions(self) -> Path:
        """The prediction file."""
        if hasattr(smp, "get_pred_file_path"):
            return Path(smp.get_pred_file_path(str(self.folder), self.model, self.data))
        return self.folder / f"{self.model}_{self.data}.xlsx"

    @property
    def note(self) -> Path:
        """What we know of the prediction file: whose answers it holds, and whether scoring it was finished."""
        return self.home / NOTES / f"{self.data}.json"

    def keep(self, dataset: Any, rows: Sequence[tuple[str, str]], answers: Sequence[str], reuse: bool = True) -> None:
        """Write the prediction file, unless it holds these very rows and answers already.

        What was there before for others, or was left by a run that was killed while scoring, moves to
        `answers/replaced-TIME`: VLMEvalKit would take old verdicts for those of the new answers.

        Args:
            dataset: Its columns but for the images go into the file.
            rows: Index and key of each row.
            answers: One for each row.
            reuse: Whether a file that is there may stay.
        """
        content = _digest_of(dataset)
        digest = _sha256([list(rows), list(answers), content])
        noted = self.noted()
        same = noted.get("digest") == digest and noted["state"] != "scoring" and self.predictions.is_file()
        if same and reuse:
            return
        self._set_aside(dataset)
        table = dataset.data.drop(columns="image", errors="ignore").assign(prediction=list(answers))
        advice = "the answers are kept; the same command takes them"
        with in_context(f"{self.predictions} cannot be written", advice), replacing(self.predictions) as scratch:
            with as_written():
                smp.dump(table, str(scratch))
        self._note(digest=digest, content=content, state="written")
        self._link()

    def score(self, dataset: Any, judge: dict[str, Any], reuse: bool = True) -> Any:
        """Let VLMEvalKit score the prediction file, and return what it returns: a table, a dictionary or None.

        Args:
            dataset: What scores.
            judge: The judge's name as "model", and its options.
            reuse: Whether verdicts count that are there from a scoring before.

        Raises:
            UniDPOError: There is no prediction file, one of other rows, or the score is no number.
        """
        if not self.predictions.is_file():
            raise UniDPOError(f"no predictions to score: {self.predictions}\n  run with --mode infer or all first")
        noted, content = self.noted(), _digest_of(dataset)
        asked = _sha256({name: it for name, it in judge.items() if name not in DOES_NOT_JUDGE})
        if noted.get("content", content) != content:
            raise UniDPOError(
                f"the data set {self.data} has changed since {self.predictions} was written\n"
                "  run with --mode all: only rows that are asked otherwise are answered again"
            )
        if not reuse or noted.get("judge", asked) != asked or noted.get("state") == "scoring":
            self._set_aside(dataset, lambda path: path != self.predictions)
        else:  # what a killed scoring left half-written ends every further one
            self._set_aside(dataset, lambda path: path != self.predictions and not _can_be_read(path))
        # An API judge's verdicts so far are kept by VLMEvalKit and worth money: such a scoring is continued.
        self._note(state="scoring" if judge["model"] == OFFLINE_JUDGE else "written", judge=asked)
        advice = "is every column there that this kind of data set scores by? --verbose shows where it stopped"
        with in_context(f"VLMEvalKit cannot score {self.predictions}", advice), as_written(type(dataset).__name__):
            scores = dataset.evaluate(str(self.predictions), **judge)
        require_numbers(self.data, scores)
        self._note(state="scored")
        self._link()
        return scores

    def report(self, **fields: Any) -> None:
        """Add to the `status.json` of VLMEvalKits that keep one."""
        if hasattr(smp, "upsert_dataset_status"):
            smp.upsert_dataset_status(run_dir=self.folder, model_name=self.model, dataset_name=self.data, **fields)

    def noted(self) -> dict[str, Any]:
        """Read our note; empty if there is none, or one that cannot be read."""
        try:
            noted = read_json(self.note)
        except UniDPOError:
            return {}
        return noted if "state" in noted else {}

    def _note(self, **changes: Any) -> None:
        with replacing(self.note) as scratch:
            scratch.write_text(json.dumps(self.noted() | changes, indent=1))

    def _set_aside(self, dataset: Any, which: Callable[[Path], bool] = lambda path: True) -> None:
        """Move files of this data set, and of those it consists of, away from where VLMEvalKit would find them."""
        parts = tuple(f"{self.model}_{name}{end}" for name in getattr(dataset, "dataset_map", {}) for end in "._")
        inside = [path for path in self.folder.iterdir() if path.name.startswith(parts or ("/",))]
        old = [path for path in dict.fromkeys([*self._files(), *inside]) if which(path)]
        if old:
            # To the nanosecond: two runs within a second must not set their files aside over each other.
            moment = f"{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**9:09}"
            away = self.home / NOTES / f"replaced-{moment}-{self.data}"
            away.mkdir()
            for path in old:
                os.replace(path, away / path.name)
                if (self.home / path.name).is_symlink():
                    (self.home / path.name).unlink()

    def _files(self) -> list[Path]:
        """Return what belongs to this data set, and not to another one whose name begins alike."""
        noted = {path.stem for path in (self.home / NOTES).glob("*.json")}
        alike = tuple(
            f"{self.model}_{name}"
            for name in {*SUPPORTED_DATASETS, *noted}
            if name.startswith(self.data) and name != self.data
        )
        ours = (f"{self.model}_{self.data}.", f"{self.model}_{self.data}_")
        return [p for p in self.folder.iterdir() if p.name.startswith(ours) and not p.name.startswith(alike or ("/",))]

    def _link(self) -> None:
        """Link a run's files into the model's folder, as run.py of the checkouts does."""
        if self.folder == self.home:
            return
        status = self.folder / "status.json"
        for path in [*self._files(), *([status] if status.is_file() else [])]:
            link = self.home / path.name
            if link.is_symlink() or not link.exists():
                link.unlink(missing_ok=True)
                link.symlink_to(path.relative_to(self.home))


def _can_be_read(path: Path) -> bool:
    """Tell whether a file of verdicts is whole."""
    if path.suffix not in (".pkl", ".xlsx", ".json"):
        return True
    try:
        smp.load(str(path))
    except Exception:  # whatever half a file brings about
        return False
    return True


def _digest_of(dataset: Any) -> str:
    """Return a hash of all columns of a data set but its images, which are part of the keys of the rows."""
    return _sha256(dataset.data.drop(columns="image", errors="ignore").to_csv(index=False))


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _run_name(home: Path) -> str:
    """Return the name of this runner's folder among those of run.py, the same for every run on one model."""
    path = home / NOTES / "run_name"
    if not path.is_file():
        name = smp.build_eval_id() if hasattr(smp, "build_eval_id") else f"T{smp.timestr('day')}_G{smp.githash()}"
        with replacing(path) as scratch:
            scratch.write_text(name)
    return path.read_text()
