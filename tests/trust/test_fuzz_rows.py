"""Rows of preference pairs, changed at random, through training's own way in: file, converter, tokeniser, batch.

A run with `pref_loss: uni_dpo` ends such a file in a batch or in a `UniDPOError`. Rows that upstream leaves out by
its own rules, with its warning (no question, no pair of answers, roles out of turn), count as taken as long as one is
left.
"""

import json

import pytest
import torch
from damage import Tally, fuzz, mutated
from hypothesis import example, given
from loading import Loader
from pairs import ALPACA, SHAREGPT, as_openai, as_sharegpt, make_rows, write_dataset

from llamafactory.train.uni_dpo.errors import UniDPOError


OPENAI = {
    "columns": SHAREGPT | {"messages": "messages"},
    "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
}
SHAPES = {
    "alpaca": (dict, {"columns": ALPACA}),
    "sharegpt": (as_sharegpt, {"columns": SHAREGPT, "formatting": "sharegpt"}),
    "openai": (as_openai, OPENAI | {"formatting": "openai"}),
}


def sound(batch, dataset):
    """Make sure that a batch is one: every pair once, scores finite, a place for each patch of an image."""
    assert len(batch["input_ids"]) == 2 * len(dataset)
    assert torch.isfinite(batch["score_chosen"]).all() and torch.isfinite(batch["score_rejected"]).all()
    assert batch["pair_row"].tolist() == dataset["pair_row"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rows")


@pytest.mark.parametrize("shape", SHAPES)
def test_files_of_rows(tiny_model, folder, figure, shape):
    rewrite, entry = SHAPES[shape]
    good = [rewrite(row) for row in make_rows(folder, 2)]
    loader = Loader(tiny_model, folder)
    tally = Tally(UniDPOError)

    @fuzz(20, 1500)
    @example(good)
    @example(None)  # Arrow's reader ended the process
    @given(mutated(good))
    def trial(rows):
        write_dataset(folder, [], **entry)
        (folder / "pairs.json").write_text(json.dumps(rows))
        with tally.attempt():
            dataset = loader.data()
            sound(loader.batch(dataset), dataset)

    trial()
    print(tally.reasons)
    figure("8 fuzz", f"files of {shape} rows, loaded and collated as for training", tally.total, tally.seen())
