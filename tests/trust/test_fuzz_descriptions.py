"""`dataset_info.json`, changed at random, through the launcher's checks, training's loader and the data commands.

Launcher and data commands refuse with `DataError`, training with `UniDPOError`. What the launcher takes may still be
refused by training, which looks at more.
"""

import json

import pytest
from damage import Tally, fuzz, mutated, ruined
from hypothesis import given
from loading import Loader
from pairs import ALPACA, make_rows, write_dataset

from llamafactory.train.uni_dpo.errors import UniDPOError
from pair_data.errors import DataError
from pair_data.pairs import RowError, read_pair
from pair_data.sources import open_source


SCORES = {"score_chosen": "score_chosen", "score_rejected": "score_rejected"}
GOOD = {
    "pairs": {
        "file_name": "pairs.json",
        "formatting": "alpaca",
        "ranking": True,
        "num_samples": 2,
        "split": "train",
        "columns": ALPACA | SCORES,
        "tags": {"role_tag": "from"},
    }
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("described")
    rows = [row | {"input": "", "output": "", "from": ""} for row in make_rows(folder, 2)]
    return write_dataset(folder, rows)


def launcher(folder):
    from launcher.checks import check_data

    return lambda: check_data({"dataset": "pairs", "dataset_dir": str(folder)})


def command(folder):
    def read():
        source = open_source("pairs", folder)
        for row in source.values():
            try:
                read_pair(row, source)
            except RowError:  # whoever reads says which row
                pass

    return read


@pytest.mark.parametrize("way", [launcher, command])
def test_what_looks_at_descriptions_alone(folder, figure, way):
    look = way(folder)
    tally = Tally(DataError)
    info = folder / "dataset_info.json"

    def attempt(content):
        info.write_bytes(content)
        with tally.attempt():
            look()

    @fuzz(60, 5000)
    @given(mutated(GOOD))
    def by_value(described):
        attempt(json.dumps(described).encode())

    @fuzz(40, 2000)
    @given(ruined(json.dumps(GOOD).encode()))
    def by_byte(content):
        attempt(content)

    by_value()
    by_byte()
    what = {launcher: "the launcher", command: "the data commands"}[way]
    figure("8 fuzz", f"`dataset_info.json` changed or damaged: {what}", tally.total, tally.seen())


def test_training(tiny_model, folder, figure):
    loader = Loader(tiny_model, folder)
    tally = Tally(UniDPOError)

    def attempt(content):
        (folder / "dataset_info.json").write_bytes(content)
        with tally.attempt():
            loader.batch(loader.data())

    @fuzz(20, 2000)
    @given(mutated(GOOD))
    def by_value(described):
        attempt(json.dumps(described).encode())

    @fuzz(10, 500)
    @given(ruined(json.dumps(GOOD).encode()))
    def by_byte(content):
        attempt(content)

    by_value()
    by_byte()
    figure("8 fuzz", "`dataset_info.json` changed or damaged: training", tally.total, tally.seen())
