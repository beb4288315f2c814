"""Everything that can be found, how bad it is and what to do about it; and what was found, in a database on disk."""

import json
import sqlite3
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ..errors import place
from ..sources import Source
from ..writing import whole_file


LEVELS = ERROR, WARNING, NOTE = "error", "warning", "note"
EXAMPLES = 3  # rows that the summary names for each kind

ERRORS = {  # what stops training, loses the row, or trains on something false
    # The file
    "file-empty": "there is nothing to train on",
    "file-bom": "the loader refuses a list after a byte order mark; --fix writes none",
    "file-encoding": "the loader reads UTF-8 only; --fix writes it",
    "row-unreadable": "correct the line, or download the file again",
    "row-not-object": 'a row is an object, {"instruction": ..., ...}',
    "loader-refuses": "the message is the loader's own",
    "column-missing": "name the columns in dataset_info.json (data.py register), or add them",
    "column-mixed": "a column holds one type: make its values alike",
    "column-late": "types of a .jsonl are those of its first 10 MB; --fix to .json or .parquet",
    "images-late": "datasets takes the column for empty; put a row with an image first (--fix does)",
    "number-too-large": "the loader reads whole numbers up to 64 bits",
    "text-not-unicode": "half a character, or a file name that is not UTF-8: rename the file and correct it",
    # The pair
    "column-type": "training expects another type here",
    "messages": "questions and answers take turns, the last message being the question",
    "question-empty": "there is nothing to answer",
    "answer-missing": "training drops such rows without a word",
    "answer-empty": "an empty answer teaches to say nothing",
    "answers-identical": "a pair of equal answers has no preference",
    "score-missing": "score it (data.py score), or train without scores",
    "score-not-finite": "training stops at NaN and infinity",
    "score-boolean": "a score is a number",
    "score-text": "a score is a number",
    "weight": "with pref_pair_weights every pair has a weight, a number of zero or more",
    "image-count": "as many <image> as images, or tokenising stops; where there is none, data.py convert puts it in",
    "media-count": "as many <video> and <audio> in the text as files, or tokenising stops",
    "placeholder-in-answer": "answers are text; an image belongs to the question",
    "media-token": "the model's own media tokens must not be in the text: its images would not match them",
    # Images, videos and sounds, and what is no file at all
    "image-entry": "a path is expected",
    "image-missing": "training stops here; data.py paths, or --media-dir",
    "image-not-a-file": "a folder or a device is no image",
    "image-empty": "zero bytes: download it again",
    "image-unreadable": "download it again, or remove the row",
    "image-truncated": "the file ends too early: download it again",
    "image-too-large": "Pillow refuses it as a decompression bomb, and so does training: scale it down",
    "image-too-thin": "scaling it down leaves no pixel on one side",
    "image-crashes": "reading it ended the process, as it would training",
    "image-hangs": "reading it did not end",
    "media-embedded": "training opens files: data.py convert makes files of these, or paths",
    "media-web": "training opens files: download them, and give their paths",
    "media-missing": "training stops here; correct the path, or --media-dir",
    "media-not-a-file": "a folder or a device is no video or sound",
    "media-empty": "zero bytes: download it again",
    "media-unreadable": "training stops here: download it again, or remove the row",
    "media-crashes": "reading it ended the process, as it would training",
    "media-hangs": "reading it did not end",
    # Rows against each other, and what the model sees
    "contradiction": "the same two answers are preferred both ways; one of them is wrong",
    "leak-pair": "the question and what it shows are also in the held-out data: measures memory",
    "tokenized-stale": "old rows and scores are trained on: give another tokenized_path, or delete this",
    "image-tokens-cut": "raise cutoff_len or lower image_max_pixels; training stops",
    "answers-cut-alike": "what is left of both answers is the same: raise cutoff_len",
    "tokens-fail": "LlamaFactory cannot tokenise this; the message is its own",
}
WARNINGS = {  # what spoils training quietly
    "column-unused": "name it in dataset_info.json (data.py register does), or remove it",
    "question-only-images": "a question of images alone, without a word",
    "score-reversed": "the rejected answer scores higher: w_qual < 0.5; see data.py stats",
    "placeholder-elsewhere": "it stands for nothing there: it stays text, or confuses the model",
    "special-token": "text that looks like a control token is tokenised as one",
    "image-squashed": "sides of more than 200 : 1 are squashed to 180 : 1",
    "image-tiny": "sides below 28 pixels are stretched to 28",
    "image-huge": "decoded anew for every batch that it is in: scale it down",
    "image-rotated": "training ignores the EXIF rotation and sees it lying or mirrored; see --fix-images",
    "image-transparent": "training sees the colours hidden behind transparent pixels; see --fix-images",
    "image-deep": "conversion clips values above 255: the picture turns white; see --fix-images",
    "duplicate": "counts twice; --fix keeps the first",
    "leak-image": "what it shows is also in the held-out data, with another question",
    "leak-by-split": "val_size deals rows out one by one, and this question is in several",
    "answer-cut": "raise cutoff_len, or drop what is too long",
    "prompt-cut": "the end of the question is lost: raise cutoff_len",
}
NOTES = {  # what is worth knowing
    "score-numeric-text": "training reads numbers written as text; --fix writes them as numbers",
    "score-equal": "the scores give such a pair the weight of a coin toss, w_qual = 0.5",
    "image-animated": "only the first frame is used",
    "image-cmyk": "converted without a colour profile",
    "image-extension": "the name says another format than the file; it is read all the same",
    "tokenized": "files that change have no effect: remove tokenized_path, or give another",
}
ADVICE = ERRORS | WARNINGS | NOTES
LEVEL = dict.fromkeys(ERRORS, ERROR) | dict.fromkeys(WARNINGS, WARNING) | dict.fromkeys(NOTES, NOTE)
# Errors that --fix mends, or that are not the row's; rows with the other errors are left out, and duplicates.
KEPT = {"file-empty", "file-bom", "file-encoding", "column-missing", "column-mixed", "column-late", "images-late"}
KEPT |= {"media-embedded", "media-web", "tokenized-stale"}
DROPPED = ERRORS.keys() - KEPT | {"duplicate"}

Problem = tuple[str, str | None, str]  # kind, column, message

_TABLES = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE kinds (kind PRIMARY KEY, level, drops);
CREATE TABLE findings (source, row, field, kind, message);
CREATE INDEX findings_by_row ON findings (source, row);
CREATE TABLE rows (source, row, question, chosen, rejected, PRIMARY KEY (source, row)) WITHOUT ROWID;
CREATE TABLE media (number INTEGER PRIMARY KEY, key UNIQUE, use, width, height, digest);
CREATE TABLE shown (source, row, number);
CREATE INDEX shown_by_row ON shown (source, row);
CREATE TABLE faults (number, kind, message);
"""


class Findings:
    """Findings about several data sets, and what is known of their rows and media; see `_TABLES`.

    Attributes:
        sources: the data sets; everywhere here they go by their number.
        starts: of each data set, the first row of every file.
        ends: how many rows each has.
        db: a database without a name, which the system's scratch space holds when it grows.
    """

    def __init__(self, sources: list[Source]):
        """Collect findings about `sources`."""
        self.sources = sources
        self.starts: list[list[int]] = [[] for _ in sources]
        self.ends = [0 for _ in sources]
        self.db = sqlite3.connect("", isolation_level=None)
        self.db.executescript(_TABLES)
        self.db.execute("BEGIN")
        self.db.executemany("INSERT INTO kinds VALUES (?, ?, ?)", ((k, LEVEL[k], k in DROPPED) for k in LEVEL))
        self.db.create_function("place", 2, self.place)
        self.db.create_function("column_for", 2, lambda source, use: sources[source].columns.get(use))

    def add(self, kind: str, source: int, row: int | None, column: str | None, message: str) -> None:
        """Add a finding about a row, counted through all files of the data set from 0, or about all of it (None)."""
        finding = source, row, column and printable(column), kind, printable(message)
        self.db.execute("INSERT INTO findings VALUES (?, ?, ?, ?, ?)", finding)

    def rows(self, source: int, kinds: Collection[str] = ERRORS.keys()) -> dict[int, str]:
        """Return the rows of a data set that have findings of these kinds, each with its first kind."""
        query = "SELECT row, kind FROM findings WHERE source = ? AND row NOT NULL ORDER BY rowid DESC"
        return {row: kind for row, kind in self.db.execute(query, (source,)) if kind in kinds}

    def locate(self, source: int, row: int | None) -> dict[str, Any]:
        """Return the data set, the file, and the row counted within that file."""
        known, starts = self.sources[source], self.starts[source] or [0]
        file = bisect_right(starts, row or 0) - 1
        row = row if row is None else row - starts[file]
        return {"data_set": known.name, "file": str(known.files[max(0, file)]), "row": row}

    def place(self, source: int, row: int) -> str:
        """Name a row in a message about another one."""
        where = self.locate(source, row)
        return printable(f"{place(where['row'])} of {where['file']}")

    @property
    def counts(self) -> Counter[str]:
        """How many findings there are of each kind."""
        return Counter(dict(self.db.execute("SELECT kind, count(*) FROM findings GROUP BY kind")))

    @property
    def level_counts(self) -> Counter[str]:
        """How many findings there are of each of `LEVELS`."""
        query = "SELECT level, count(*) FROM findings JOIN kinds USING (kind) GROUP BY level"
        return Counter(dict(self.db.execute(query)))

    def examples(self, kind: str) -> Iterator[str]:
        """Yield the first few findings of a kind in words."""
        for found in self._select("WHERE kind = ? ORDER BY source, row, rowid LIMIT ?", kind, EXAMPLES):
            row = "" if found["row"] is None else f"row {found['row']}"
            name = found["data_set"] if len(self.sources) > 1 or not row else ""
            parts = [part for part in (name, row, found["column"] and f'"{found["column"]}"') if part]
            yield f"{', '.join(parts)}: {found['message']}"

    def write(self, path: Path) -> None:
        """Write all findings as JSONL, by data set and row."""
        with whole_file(path) as file:
            for found in self._select("ORDER BY source, row, rowid"):
                file.write(json.dumps(found) + "\n")

    def _select(self, clause: str, *values: Any) -> Iterator[dict[str, Any]]:
        for source, row, column, kind, message in self.db.execute(f"SELECT * FROM findings {clause}", values):
            level = LEVEL[kind]
            yield self.locate(source, row) | {"column": column, "kind": kind, "level": level, "message": message}


def printable(text: str) -> str:
    """Return text that can be printed and written, whatever is in a file name."""
    return text.encode("utf-8", "backslashreplace").decode()
