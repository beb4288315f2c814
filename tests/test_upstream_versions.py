"""The overlay on every LlamaFactory we support: other losses stay themselves, ours gives the same numbers.

Versions come from the package index. `UNI_DPO_CHECKOUTS`, a colon-separated list of git checkouts, adds more.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pairs import ALPACA, ROOT, make_rows, options, write_dataset
from upstream import TREES, overlaid, source, transformers_4


LOSSES = ("sigmoid", "hinge", "ipo", "orpo", "simpo")


@pytest.fixture(scope="module", params=TREES, ids=str)
def trees(request, tmp_path_factory):
    """A pristine LlamaFactory, and a copy of it with the overlay copied over it."""
    return source(request.param), overlaid(request.param, tmp_path_factory.mktemp("patched"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pairs, and the same answers as supervised and as KTO examples."""
    folder = tmp_path_factory.mktemp("data")
    rows = make_rows(folder, 12)
    write_dataset(folder, rows)
    plain = {"prompt": "instruction", "response": "chosen", "images": "images"}
    write_dataset(folder, rows, name="answers", columns=plain, ranking=False)
    tagged = [row | {"tag": i % 2 == 0} for i, row in enumerate(rows)]
    write_dataset(folder, tagged, name="tagged", columns=plain | {"kto_tag": "tag"}, ranking=False)
    unscored = [{k: v for k, v in row.items() if not k.startswith("score")} for row in rows]
    write_dataset(folder, unscored, name="unscored", columns=ALPACA)
    return folder


def results(tree, runs, folder):
    """Train `runs` with the LlamaFactory of `tree` in a process of its own."""
    folder.mkdir()
    runs = {name: run | {"output_dir": str(folder / name)} for name, run in runs.items()}
    (folder / "runs.json").write_text(json.dumps(runs))
    # Upstream pins narrower ranges than work; 0.9.4 would refuse the transformers that 0.9.5 is tested with.
    # All run on transformers 4: on 5.5 upstream's own KTO stops at pictures, for want of `mm_token_type_ids`.
    path = os.pathsep.join([str(tree), str(transformers_4())])
    environment = os.environ | {"PYTHONPATH": path, "DISABLE_VERSION_CHECK": "1"}
    command = [sys.executable, str(ROOT / "tests" / "support" / "run_many.py"), "runs.json", "results.json"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((folder / "results.json").read_text())
    assert Path(found.pop("llamafactory")) == Path(tree) / "llamafactory"
    return found


@pytest.fixture(scope="module")
def outcomes(trees, tiny_model, data, tmp_path_factory):
    """Results of all stock runs with the pristine tree and with the patched one, and of ours with the patched one."""
    folder = tmp_path_factory.mktemp("outcomes")

    def run(**changes):
        return options(tiny_model, data, folder, **changes)

    stock = {loss: run(pref_loss=loss, val_size=4) for loss in LOSSES}
    stock["unscored"] = run(pref_loss="sigmoid", dataset="unscored")
    stock["kto"] = run(stage="kto", dataset="tagged", pref_loss=None)
    stock["sft"] = run(stage="sft", dataset="answers", pref_loss=None)
    pristine, patched = trees
    ours = {
        "uni_dpo": run(val_size=4),
        "averaged": run(pref_loss="sigmoid", dpo_average_log_prob=True),
        # After ours in the same process: nothing of it may be left.
        "sigmoid_again": stock["sigmoid"],
    }
    return results(pristine, stock, folder / "pristine"), results(patched, stock | ours, folder / "patched")


@pytest.mark.parametrize("name", [*LOSSES, "unscored", "kto", "sft"])
def test_everything_else_is_bit_for_bit_upstream(outcomes, name):
    pristine, patched = outcomes
    assert pristine[name] == patched[name]


def test_nothing_of_ours_stays_behind(outcomes):
    pristine, patched = outcomes
    assert pristine["sigmoid"] == patched["sigmoid_again"]


def test_ours_gives_the_same_numbers_on_every_version(outcomes, tiny_model, data, tmp_path):
    """The installed LlamaFactory is the yardstick, on the installed transformers: equal to rounding."""
    from pairs import train
    from run_many import result

    run = options(tiny_model, data, tmp_path / "out", val_size=4)
    train(run)
    here, there = (
        [e["loss"] for e in it["log"] if "loss" in e] for it in (result(tmp_path / "out"), outcomes[1]["uni_dpo"])
    )
    assert len(here) == 4 and here == pytest.approx(there, abs=6e-5)  # four digits are logged
    assert outcomes[1]["uni_dpo"]["log"][0]["loss"] < 0.5 < outcomes[1]["sigmoid"]["log"][0]["loss"]
