"""The command that tries all versions: what it makes of outcomes, and the oldest and newest of them in earnest."""

import json
import re
from pathlib import Path

import pytest
from upstream import checkout_tree

from common import ToolError
from install_overlay.kinds import LLAMAFACTORY, VLMEVAL
from versions import command
from versions.cells import Cell, cells, kind_of
from versions.tables import summary, tables
from versions.trials import last_words


def cell(transformers: str, version: str = "0.9.5", checkout: Path | None = None) -> Cell:
    return Cell(LLAMAFACTORY, version, checkout, transformers)


def test_the_table_says_what_happened():
    results = [
        (cell("5.0.0"), {"state": "works", "note": "", "losses": [0.12, 0.03]}),
        (cell("4.55.4"), {"state": "fails", "note": "KeyError: 'x'"}),
        (cell("4.51.3", "0.9.4"), {"state": "refused", "note": "does not support"}),
        (cell("5.0.0", "HEAD", Path("/some")), {"state": "works", "note": "", "losses": [0.12, 0.0301]}),
    ]
    text = tables(results)
    assert "|  | transformers 4.51.3 | transformers 4.55.4 | transformers 5.0.0 |" in text
    assert "| llamafactory 0.9.5 | – | **fails** | works |" in text
    assert "| llamafactory 0.9.4 | refused by name | – | – |" in text
    assert "- llamafactory 0.9.5, transformers 4.55.4: KeyError: 'x'" in text
    assert (
        summary(results) == "4 cells: 2 works, 1 refused by name, 1 fails; losses of uni_dpo differ by at most 1.0e-04"
    )


def test_last_words_are_ours_or_the_error():
    assert last_words("a\n\nError: The Uni-DPO overlay does not support x.\nmore") == (
        "The Uni-DPO overlay does not support x."
    )
    assert last_words("Traceback\n  File\nKeyError: 'x'\n") == "KeyError: 'x'"


def test_a_checkout_is_recognised(tmp_path):
    checkout = checkout_tree("0.9.4", tmp_path / "LLaMA-Factory")
    (tmp_path / "kit" / "vlmeval").mkdir(parents=True)
    (tmp_path / "kit" / "vlmeval" / "__init__.py").touch()
    assert kind_of(checkout) is LLAMAFACTORY and kind_of(tmp_path / "kit") is VLMEVAL
    found = cells([LLAMAFACTORY], [], [checkout], ["4.55.4", "4.57.1", "4.57.6", "5.0.0"], "")
    assert [each.transformers for each in found] == ["4.55.4", "4.57.1"]
    with pytest.raises(ToolError, match="neither a LlamaFactory"):
        kind_of(tmp_path)


def test_what_was_tried_is_not_tried_again(tmp_path, monkeypatch):
    """Unless the overlay has changed since, or it is asked for."""
    tries = []
    monkeypatch.setattr(command, "Trial", lambda *given: tries.append(given) or Worked())
    one = cell("5.0.0")
    assert command.tried(one, tmp_path, again=False) == command.tried(one, tmp_path, again=False) == Worked().outcome()
    assert len(tries) == 1
    command.tried(one, tmp_path, again=True)
    assert len(tries) == 2
    note = tmp_path / f"{one.name}.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"stamp": "of another overlay"}))
    command.tried(one, tmp_path, again=False)
    assert len(tries) == 3


class Worked:
    """Stands in for minutes of work, which the long test does."""

    def outcome(self):
        """Say that it went well."""
        return {"state": "works", "note": "", "seconds": 1}


@pytest.mark.long
@pytest.mark.parametrize(
    ("only", "transformers"),
    [("llamafactory", ("4.51.3", "4.55.4", "4.57.1", "5.6.0")), ("vlmeval", ("4.55.4", "5.8.0"))],
)
def test_oldest_and_newest(only, transformers, capsys, figure):
    """LlamaFactory 0.9.4 and 0.9.5, and ms-vlmeval, in environments made on the spot."""
    code = command.main(["--only", only, "--transformers", *transformers])
    said = capsys.readouterr().out
    assert code == 0, said
    words = said.splitlines()[-1]
    count = int(words.split()[0])
    if only == "llamafactory":
        assert "6 cells: 5 works, 1 refused by name" in words
        assert float(re.search(r"at most (\S+)", words).group(1)) < 1e-4
    figure("4 contract", f"matrix: {only} x transformers {', '.join(transformers)}", count, words.partition(": ")[2])
