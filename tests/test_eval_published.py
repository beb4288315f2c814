"""The name `Qwen2VLChat` and its options, as the published config has them, for checkpoints of our training."""

import json

import pytest
from eval_sets import DEMO, MCQ, predictions, rows, write
from eval_tree import TREES, vlmevalkit
from variants import FLAT, variant


ROLES = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
)
OPTIONS = {"min_pixels": 28 * 28, "max_pixels": 56 * 56, "use_custom_prompt": False, "max_new_tokens": 12}
PUBLISHED = OPTIONS | {
    **{"post_process": False, "gpu_utils": 0.9, "use_vllm": False, "use_lmdeploy": False, "total_pixels": None},
    **{"top_p": 0.001, "top_k": 1, "temperature": 0.01, "verbose": False, "system_prompt": None},
}
OURS, THEIRS = {"class": "UniDPOQwen2VL"}, {"class": "Qwen2VLChat"}


class World:
    """The demo's checkpoint with the flat chat template of a base model, with our record of training and without."""

    def __init__(self, kit, folder):
        """Make the checkpoints."""
        self.kit, self.folder = kit, folder
        write(folder / "data", "Own_MCQ", rows(A="one", B="two", answer=["A", "B", "A", "B"], category="all"))
        record = {"template": "qwen2_vl", "prompt": ROLES, "pref_loss": "uni_dpo"}
        self.trained = variant(DEMO, folder / "trained", FLAT, trained=True, uni_dpo=record)
        self.downloaded = variant(DEMO, folder / "downloaded", FLAT)

    def evaluate(self, work, model, theirs=False, **options):
        """Run one of the loops."""
        entry = {"model_path": str(model)} | options
        data = {"Own_MCQ": {"class": MCQ, "dataset": "Own_MCQ"}}
        path = self.folder / f"{work}.json"
        path.write_text(json.dumps({"model": {"tiny": entry}, "data": data}))
        start = self.kit.loop if theirs else self.kit.run
        judge = ["--judge", "exact_matching", "--work-dir", self.folder / work]
        return start(self.folder / "data", "--config", path, *judge)

    def answers(self, work):
        """What the model said."""
        return predictions(self.folder / work, sets=["Own_MCQ"])["Own_MCQ"]


@pytest.fixture(scope="module", params=TREES, ids=str)
def world(request, tmp_path_factory):
    return World(vlmevalkit(request.param), tmp_path_factory.mktemp("published"))


def test_the_published_config_gives_the_answers_of_ours(world):
    """Upstream's class needs a GPU, and shows the model nothing of the question with such a chat template."""
    ways = {
        "plain": (False, OURS | OPTIONS),
        "ours": (False, THEIRS | PUBLISHED),
        "theirs": (True, THEIRS | PUBLISHED),
        "own name": (True, OURS | PUBLISHED),
    }
    for work, (theirs, options) in ways.items():
        done = world.evaluate(work, world.trained, theirs, **options)
        assert done.exit == 0, done.text
        assert any(world.answers(work)) and world.answers(work) == world.answers("plain")


def test_the_class_stays_what_it_was_for_all_others(world):
    """Its sampling takes the likeliest token where nothing is said."""
    seen = world.kit.ask("published", paths=[world.trained, world.downloaded], options=PUBLISHED)
    assert seen["same"] and seen["instance"] and seen["copied"] and seen["derived"]
    assert seen["theirs"] == [True, True, False] and seen["attributes"] == [True, True, False]
    assert seen["parameter"] == "model_path" and seen["share"] == 0.5
    assert {"do_sample": True, "top_k": 1, "temperature": 0.01}.items() <= seen["sampling"].items()


REFUSED = {
    "has no record of our training, so Qwen2VLChat is VLMEvalKit's own class": ("downloaded", False, THEIRS),
    'does not do use_lmdeploy: True; leave it out, or write "use_vllm": true': (
        *("trained", True),
        THEIRS | {"use_lmdeploy": True},
    ),
    "has no option 'limit_mm'; it has model_path": ("trained", False, THEIRS | {"limit_mm": 3}),
    'add "do_sample": true, or leave it out': ("trained", False, OURS | {"temperature": 0.7}),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_not_understood_is_one_message(world, words):
    model, theirs, options = REFUSED[words]
    done = world.evaluate("refused", getattr(world, model), theirs, **options)
    assert done.exit == 1 and words in done.text
