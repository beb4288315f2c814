"""The overlay on every LlamaFactory we support: other losses stay themselves, ours gives the same numbers.

Versions come from the package index. `UNI_DPO_CHECKOUTS`, a colon-separated list of git checkouts, adds more.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from figures import LONG
from pairs import ALPACA, ROOT, make_rows, options, train, write_dataset
from trees import result
from upstream import TREES, overlaid, source, transformers_4


STOCK = ["sigmoid", "hinge", "ipo", "orpo", "simpo", "unscored", "kto", "sft"]
# The older version is tried in a long run.
OLDER = "0.9.4"
TRIED = [tree for tree in TREES if LONG or tree != OLDER]
CASES = [(tree, name) for tree in TRIED for name in STOCK]


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


@pytest.fixture(scope="module")
def outcomes(tiny_model, data, tmp_path_factory):
    """For each tree the results of all stock runs, pristine and with the overlay over it, and of ours with it."""
    folder, jobs = tmp_path_factory.mktemp("outcomes"), []

    def run(**changes):
        return options(tiny_model, data, folder, **{"max_steps": 2} | changes)

    stock = {loss: run(pref_loss=loss, val_size=4) for loss in STOCK}
    stock["unscored"] = run(pref_loss="sigmoid", dataset="unscored")
    stock["kto"] = run(stage="kto", dataset="tagged", pref_loss=None)
    stock["sft"] = run(stage="sft", dataset="answers", pref_loss=None)
    # Ours, and then a stock run in the same process: nothing of ours may be left.
    ours = {"averaged": run(pref_loss="sigmoid", dpo_average_log_prob=True), "uni_dpo": run(val_size=4)}
    ours["sigmoid_again"] = stock["sigmoid"]
    for number, tree in enumerate(TRIED):
        patched = folder / f"patched-{number}"
        for place, runs in ((source(tree), stock), (overlaid(tree, patched), stock | ours)):
            out = folder / f"out-{len(jobs)}"
            runs = {name: each | {"output_dir": str(out / name)} for name, each in runs.items()}
            jobs.append({"path": [str(place)], "runs": runs, "results": f"{out}.json"})
    (folder / "jobs.json").write_text(json.dumps(jobs))
    # Upstream pins narrower ranges than work; 0.9.4 would refuse the transformers that 0.9.5 is tested with.
    # All run on transformers 4: on 5.5 upstream's own KTO stops at pictures, for want of `mm_token_type_ids`.
    environment = os.environ | {"PYTHONPATH": str(transformers_4()), "DISABLE_VERSION_CHECK": "1"}
    command = [sys.executable, str(ROOT / "tests" / "support" / "trees.py"), folder / "jobs.json"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(Path(job["results"]).read_text()) for job in jobs]
    for job, results in zip(jobs, found, strict=True):
        assert Path(results["llamafactory"]) == Path(job["path"][0]) / "llamafactory"
    return dict(zip(TRIED, zip(found[::2], found[1::2], strict=True), strict=True))


@pytest.mark.parametrize(("tree", "name"), CASES, ids=str)
def test_everything_else_is_bit_for_bit_upstream(outcomes, tree, name):
    pristine, patched = outcomes[tree]
    assert pristine[name] == patched[name]


@pytest.mark.parametrize("tree", TRIED, ids=str)
def test_nothing_of_ours_stays_behind(outcomes, tree):
    pristine, patched = outcomes[tree]
    assert pristine["sigmoid"] == patched["sigmoid_again"]


def test_ours_gives_the_same_numbers_on_every_version(outcomes, tiny_model, data, tmp_path):
    """The installed LlamaFactory is the yardstick, on the installed transformers: equal to rounding."""
    train(options(tiny_model, data, tmp_path / "out", val_size=4, max_steps=2))
    here = [entry["loss"] for entry in result(tmp_path / "out")["log"] if "loss" in entry]
    for _, patched in outcomes.values():
        there = [entry["loss"] for entry in patched["uni_dpo"]["log"] if "loss" in entry]
        assert len(here) == 2 and here == pytest.approx(there, abs=6e-5)  # four digits are logged
        assert there[0] < 0.5 < patched["sigmoid"]["log"][0]["loss"]
