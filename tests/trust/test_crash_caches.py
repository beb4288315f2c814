"""`kill -9` while caches are filled, wherever files change: what has a name is whole, nothing is lost or doubled."""

import json
import shutil

import pytest
from cached import images_in, log_probs, pairs_in
from crashes import KILLED, moments
from figures import times
from pairs import make_rows, options, write_dataset


FILL = "fill_slowly:fill"  # writes after every batch, so that there are many moments


class Filling:
    """The command that fills both caches, with what an undisturbed run of it leaves; a `Training` for `moments`."""

    def __init__(self, host, model, folder):
        """Run it undisturbed."""
        write_dataset(folder / "data", make_rows(folder / "data", 12))
        self.host, self.folder = host, folder / "caches"
        run = options(model, folder / "data", folder / "out", per_device_eval_batch_size=1)
        self.config = folder / "run.yaml"
        run |= {f"uni_dpo_{name}_cache": str(self.folder / name) for name in ("reference", "image")}
        self.config.write_text(json.dumps(run))
        self.whole = self.start()
        assert self.whole.status == 0, self.whole.said
        self.left = self.found()
        assert len(self.left[0]) == 12 and self.left[1] > 10

    def start(self, **death):
        """Give the command and see how it ends."""
        return self.host.run(FILL, self.config, below=self.folder, **death)

    def found(self):
        """Read everything with a name: log-probs by pair, and how many images; nothing is there twice."""
        pairs, images = pairs_in(self.folder / "reference"), images_in(self.folder / "image")
        assert len(pairs) == len(set(pairs)) and len(images) == len(set(images)), "something is stored twice"
        return log_probs(self.folder / "reference"), len(images)


@pytest.mark.parametrize(
    "kind, tried", [("change", "before a change of a file"), ("write", "in the middle of a file")]
)
def test_killed_while_filling(host, tiny_model, tmp_path, figure, kind, tried):
    filling = Filling(host, tiny_model, tmp_path)
    kills = half = 0
    for moment in moments(filling, times(2, 60), kind):
        shutil.rmtree(filling.folder)
        ending = filling.start(**moment)
        assert ending.signal in KILLED or ending.status == 0, ending.said
        kills += ending.signal is not None
        half += bool(list(filling.folder.glob("*/.*.tmp")))
        before, _ = filling.found()
        assert before.items() <= filling.left[0].items(), "a log-prob of a killed run is another one"
        ending = filling.start()
        assert ending.status == 0 and filling.found() == filling.left, ending.said
    assert kills, "no run was killed before its end"
    seen = f"{half} left a half part, which nobody read; the next run filled in the rest, and stored nothing twice"
    figure("2 crash", f"filling the caches, killed {tried}", kills, seen)
