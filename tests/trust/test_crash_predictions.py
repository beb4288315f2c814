"""`kill -9` while the batched runner answers, writes and scores: the same command ends as if undisturbed."""

import json
import random
import shutil

import pandas as pd
import pytest
from crashes import KILLED, moments
from eval_sets import DEMO, SETS, metrics, predictions, write_config, write_sets
from figures import times
from forked import Host


MAIN = "vlmeval.uni_dpo.cli:main"
ROWS = 10
RUNNER = ("vlmeval.uni_dpo.cli", "vlmeval.uni_dpo.runner", "transformers.models.qwen2_vl.modeling_qwen2_vl")


class Evaluation:
    """The runner on three data sets, with what an undisturbed run leaves; a `Training` for `moments`."""

    def __init__(self, folder):
        """Run it undisturbed."""
        self.work, self.tables = folder / "work", {}
        self.config = write_config(folder / "config.json", DEMO, SETS, max_new_tokens=4)
        self.host = Host(*RUNNER, LMUData=str(write_sets(folder / "data", ROWS)))
        self.whole = self.start()
        assert self.whole.status == 0, self.whole.said
        self.answers, self.scores = predictions(self.work), metrics(self.work)
        assert len(self.scores) >= 3

    def start(self, **death):
        """Give the command and see how it ends."""
        arguments = ("--config", self.config, "--work-dir", self.work, "--batch-size", "2")
        return self.host.run(MAIN, *arguments, below=self.work, **death)

    def kill(self, **death):
        """Start, kill, and look at what is there; tell whether it was killed before its end."""
        ending = self.start(**death)
        assert ending.signal in KILLED or ending.status == 0, ending.said
        for name in SETS:
            file = self.work / "tiny" / f"tiny_{name}.xlsx"
            assert not file.exists() or list(map(str, pd.read_excel(file)["prediction"])) == self.answers[name]
        return ending.signal is not None

    def finish(self):
        """Give the command again and compare with the undisturbed run."""
        ending = self.start()
        assert ending.status == 0, ending.said
        assert predictions(self.work) == self.answers and metrics(self.work) == self.scores
        for name in SETS:
            given = (self.work / "tiny" / "answers" / f"{name}.rank0.jsonl").read_text().splitlines()
            assert len({json.loads(line)["index"] for line in given}) == ROWS
            assert len(given) <= ROWS + 2, "more was answered again than the batch that was being written"


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    evaluation = Evaluation(tmp_path_factory.mktemp("evaluation"))
    yield evaluation
    evaluation.host.close()


SEEN = "prediction files absent or whole; same answers and scores at the end, no batch answered twice"


def test_killed_at_random_moments(evaluation, figure):
    """Each command goes on where the one before it was killed."""
    rng, wanted, kills = random.Random(0), times(2, 60), 0
    while kills < wanted:
        shutil.rmtree(evaluation.work)
        for _ in range(3):
            kills += evaluation.kill(seconds=rng.uniform(0.05, 1) * evaluation.whole.seconds)
        evaluation.finish()
    figure("2 crash", "evaluation killed at random moments, up to three times in a row", kills, SEEN)


@pytest.mark.parametrize(
    "kind, tried", [("change", "before a change of a file"), ("write", "in the middle of a file")]
)
def test_killed_while_writing(evaluation, figure, kind, tried):
    kills = 0
    for moment in moments(evaluation, times(2, 60), kind):
        shutil.rmtree(evaluation.work)
        kills += evaluation.kill(**moment)
        evaluation.finish()
    assert kills, "no run was killed before its end"
    figure("2 crash", f"evaluation killed {tried}", kills, SEEN)
