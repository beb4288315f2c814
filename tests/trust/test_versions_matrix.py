"""The command that tries all versions: what it makes of outcomes, and the oldest and newest of them in earnest."""

import json
import re
from pathlib import Path

import pytest
from upstream import checkout_tree, wheel_tree
from upstream_trials import versions
from upstream_trials.layers import TRANSFORMERS, Cell, accepted_by, cells
from upstream_trials.versions import last_words, summary, tables

from common import ToolError
from install_overlay.kinds import LLAMAFACTORY, VLMEVAL


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


def test_what_goes_together_is_upstreams_word(tmp_path):
    def accepted(version):
        return accepted_by(wheel_tree(version) / "llamafactory", list(TRANSFORMERS))

    assert accepted("0.9.4") == ["4.51.3", "4.55.4", "4.56.2", "4.57.1"]
    assert accepted("0.9.5") == ["4.55.4", "4.56.2", "4.57.6", "5.0.0", "5.2.0", "5.5.4", "5.6.0"]
    checkout = checkout_tree("0.9.4", tmp_path / "LLaMA-Factory")
    (tmp_path / "kit" / "vlmeval").mkdir(parents=True)
    (tmp_path / "kit" / "vlmeval" / "__init__.py").touch()
    both = [checkout, tmp_path / "kit"]
    found = cells([LLAMAFACTORY, VLMEVAL], [], both, ["4.55.4", "4.57.1", "4.57.6", "5.0.0"], "1")[3:]
    assert [(cell.version, cell.transformers) for cell in found] == [
        *(("LLaMA-Factory", version) for version in ("4.55.4", "4.57.1")),
        *(("kit", version) for version in ("4.55.4", "4.57.6", "5.0.0")),
    ]
    with pytest.raises(ToolError, match="neither a LlamaFactory"):
        cells([LLAMAFACTORY], [], [tmp_path], [], "1")


def test_what_was_tried_is_not_tried_again(tmp_path, monkeypatch):
    """Unless the overlay has changed since, or it is asked for."""
    tries = []
    monkeypatch.setattr(versions, "Trial", lambda *given: tries.append(given) or Worked())
    one = cell("5.0.0")
    assert (
        versions.tried(one, tmp_path, again=False) == versions.tried(one, tmp_path, again=False) == Worked().outcome()
    )
    assert len(tries) == 1
    versions.tried(one, tmp_path, again=True)
    assert len(tries) == 2
    note = tmp_path / f"{one.name}.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"stamp": "of another overlay"}))
    versions.tried(one, tmp_path, again=False)
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
    code = versions.main(["--only", only, "--transformers", *transformers])
    said = capsys.readouterr().out
    assert code == 0, said
    words = said.splitlines()[-1]
    count = int(words.split()[0])
    if only == "llamafactory":
        assert "6 cells: 5 works, 1 refused by name" in words
        assert float(re.search(r"at most (\S+)", words).group(1)) < 1e-4
    figure("4 contract", f"matrix: {only} x transformers {', '.join(transformers)}", count, words.partition(": ")[2])
