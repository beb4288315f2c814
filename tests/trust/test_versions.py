"""Unsupported versions: our runs are refused by name at the start, others are left to LlamaFactory as it is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import eval_tree
import other_tree
import pytest
from pairs import ROOT, options
from upstream import overlaid, transformers_4, wheel_tree

from install_overlay.kinds import KINDS
from llamafactory.train.uni_dpo.upstream import versions


@pytest.fixture(scope="module")
def patched(tmp_path_factory):
    """A function that copies a LlamaFactory, lays the overlay over it and edits files of it."""

    def make(release: str, *edits: tuple[str, str, str]) -> Path:
        folder = overlaid(release, tmp_path_factory.mktemp("patched"))
        for file, old, new in edits:
            path = folder / "llamafactory" / file
            assert old in path.read_text()
            path.write_text(path.read_text().replace(old, new))
        return folder

    return make


def pretend(folder: Path, name: str, version: str) -> Path:
    """Make a folder from which Python reads another version of an installed package, and nothing else."""
    facts = folder / f"{name}-{version}.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder


@pytest.fixture
def train(host, monkeypatch):
    """A function that trains as `llamafactory-cli train` does, with these folders first on the path.

    It does so in a fork, or anew where transformers is another one.
    """

    def train(run, folder: Path, *path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        folder.mkdir(exist_ok=True)
        (folder / "run.yaml").write_text(json.dumps(run))
        arguments = ["train", str(folder / "run.yaml")]
        if transformers_4() in path:
            variables = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))} | environment
            command = [sys.executable, "-m", "llamafactory.cli", *arguments]
            return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return other_tree.run(host, path, "llamafactory.cli:main", *arguments)

    return train


def last_error(done) -> str:
    return [line for line in done.stderr.splitlines() if line.startswith("Error: ")][-1]


def assert_refused(done, output: Path, *words: str) -> None:
    """It ended in one message of ours, and nothing was written."""
    last = last_error(done)
    assert done.returncode != 0 and "Traceback" not in done.stderr, done.stderr[-3000:]
    assert last.startswith("Error: The Uni-DPO overlay does not") and all(word in last for word in words), last
    assert not output.exists()


@pytest.fixture
def run(tiny_model, pair_data, tmp_path):
    return options(tiny_model, pair_data, tmp_path / "out", max_steps=1)


@pytest.mark.long
def test_transformers_too_old(train, run, patched, tmp_path):
    """LlamaFactory 0.9.4 itself accepts 4.52, but not the PEFT that 0.9.5 demands."""
    pretend(tmp_path / "old", "peft", "0.17.1")
    done = train(
        run, tmp_path, pretend(tmp_path / "old", "transformers", "4.52.4"), patched("0.9.4"), transformers_4()
    )
    assert_refused(done, tmp_path / "out", "transformers 4.52.4", ">=4.55", 'pip install "transformers')


def test_llamafactory_too_new(train, run, patched, tmp_path, figure):
    done = train(run, tmp_path, patched("0.9.5", ("extras/env.py", '"0.9.5"', '"0.10.0"')))
    assert_refused(
        done, tmp_path / "out", "llamafactory 0.10.0", ">=0.9.4", "install_overlay.py", "DISABLE_VERSION_CHECK"
    )
    last = last_error(done)
    figure(
        "4 contract",
        "a LlamaFactory that says it is 0.10.0",
        1,
        f"exit code {done.returncode}: {last.partition(',')[0]}",
    )


@pytest.mark.long
def test_upstreams_switch_makes_it_a_warning(train, run, patched, tmp_path):
    tree = patched("0.9.5", ("extras/env.py", '"0.9.5"', '"0.10.0"'))
    done = train(run, tmp_path, tree, DISABLE_VERSION_CHECK="1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (
        "does not support llamafactory 0.10.0" in done.stdout + done.stderr
        and (tmp_path / "out" / "model.safetensors").exists()
    )


@pytest.mark.long
def test_an_old_transformers_trains_as_far_as_it_can(train, run, patched, tmp_path):
    """As 4.51 does, which the published recipe meets: without the modules of masks, by LlamaFactory's own forward."""
    masks = ("train/uni_dpo/engine/attention.py", "transformers.masking_utils", "transformers.no_masking_utils")
    tree, old = patched("0.9.5", masks), pretend(tmp_path / "old", "transformers", "4.51.3")
    done = train(run, tmp_path, old, tree)
    assert done.returncode != 0 and "4.51.3" in done.stderr  # by LlamaFactory itself
    done = train(run, tmp_path, old, tree, DISABLE_VERSION_CHECK="1")
    said = done.stdout + done.stderr
    assert done.returncode == 0, done.stderr[-3000:]
    assert "does not support transformers 4.51.3" in said and "Going on, as DISABLE_VERSION_CHECK is set" in said
    assert "pref_forward: upstream (transformers " in said and "has no masking_utils)" in said
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.fixture(scope="module")
def estranged(patched):
    """A supported LlamaFactory in which the overlay cannot be imported: a name of transformers is gone."""
    line = "from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS"
    lost = ("train/uni_dpo/engine/attention.py", line, line.replace("ALL", "NO"))
    return patched("0.9.5", lost)


def test_with_the_switch_it_is_said_what_is_missing(train, estranged, run, tmp_path):
    """Not again that the switch would help."""
    old = pretend(tmp_path / "old", "transformers", "4.51.3")
    done = train(run, tmp_path, old, estranged, DISABLE_VERSION_CHECK="1")
    assert_refused(done, tmp_path / "out", "transformers 4.51.3", "does not help", "NO_ATTENTION_FUNCTIONS")


def test_where_ours_cannot_be_imported_ours_is_refused(train, run, estranged, tmp_path):
    """Upstream refuses the options of ours that it does not know; the reason is told in place of its traceback."""
    run |= {"uni_dpo_qual_eta": 0.7}
    done = train(run, tmp_path, estranged)
    assert_refused(done, tmp_path / "out", "does not fit llamafactory 0.9.5", "NO_ATTENTION_FUNCTIONS")


@pytest.mark.parametrize("option", ["--pref_loss=uni_dpo", "--pref-forward auto", "--uni_dpo_qual_eta 0.5"])
def test_where_ours_cannot_be_imported_a_command_line_is_told_so(host, estranged, tmp_path, option):
    """Where the parser would call it an invalid choice, or an unknown argument."""
    arguments = ["train", "--stage", "dpo", "--model_name_or_path", "x", "--output_dir", tmp_path / "out"]
    done = other_tree.run(host, [estranged], "llamafactory.cli:main", *arguments, *option.split())
    assert_refused(done, tmp_path / "out", "does not fit llamafactory 0.9.5", "NO_ATTENTION_FUNCTIONS")


@pytest.mark.long
def test_where_ours_cannot_be_imported_others_are_as_they_were(run, estranged, tmp_path):
    """And `pref_loss: uni_dpo` alone, which upstream does not refuse, is refused before the model is loaded."""
    found = {}
    for name, tree in {"pristine": wheel_tree("0.9.5"), "estranged": estranged}.items():
        folder = tmp_path / name
        folder.mkdir()
        stock = run | {"pref_loss": "sigmoid", "pref_beta": 0.1, "output_dir": str(folder / "stock")}
        ours = run | {"output_dir": str(folder / "ours")}
        code = (
            f"sys.path.insert(0, {str(ROOT / 'tests' / 'support')!r}); import json, trees; from pathlib import Path\n"
        )
        code = f"import sys; {code}from llamafactory.train.tuner import run_exp\nrun_exp({stock!r})\n"
        code += f"result = trees.result(Path({stock['output_dir']!r}))\n"
        code += "Path('result.json').write_text(json.dumps(result))\n"
        code += f"run_exp({ours!r})\n" if tree is estranged else ""
        variables = os.environ | {"PYTHONPATH": str(tree)}
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=variables, capture_output=True, text=True)
        found[name] = json.loads((folder / "result.json").read_text())
    assert found["pristine"] == found["estranged"]
    assert_refused(done, tmp_path / "estranged" / "ours", "does not fit")


@pytest.mark.long
def test_a_lost_list_of_options_is_refused(train, run, patched, tmp_path):
    tree = patched("0.9.5", ("hparams/parser.py", "_TRAIN_ARGS", "_TRAINING_CLASSES"))
    done = train(run | {"uni_dpo_qual_eta": 0.7}, tmp_path, tree)
    assert_refused(done, tmp_path / "out", "_TRAIN_ARGS")


def test_a_lost_seam_is_refused(train, run, patched, tmp_path):
    """One that is only looked for when a run starts."""
    tree = patched("0.9.5", ("data/loader.py", "_load_single_dataset", "_load_one"))
    assert_refused(train(run, tmp_path, tree), tmp_path / "out", "_load_single_dataset")


@pytest.mark.long
def test_evaluation_refuses_too(tmp_path, tiny_model):
    tree = eval_tree.overlaid("installed", tmp_path / "tree")
    pretend(tree, "transformers", "4.40.0")
    arguments = ["-m", "vlmeval.uni_dpo", "--model", tiny_model, "--data", "POPE", "--work-dir", tmp_path / "work"]
    done = eval_tree.python(tree, *arguments)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr[-3000:]
    last = done.stderr.strip().splitlines()[-1]
    assert "does not support transformers 4.40.0, only transformers>=4.55" in last and "pip install" in last
    assert not (tmp_path / "work").exists()


def test_ranges_are_stated_once():
    llamafactory, vlmeval = KINDS["llamafactory"], KINDS["vlmeval"]
    assert llamafactory.supported == versions.SUPPORTED
    assert llamafactory.oldest == "0.9.4" and vlmeval.oldest == "0.2rc1"
    folders = ("LlamaFactory", "VLMEvalKit", "scripts", "tests")
    ours = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    stating = {kind.overlay / kind.ours / kind.states for kind in KINDS.values()}
    assert {path for path in ours if "\nSUPPORTED = {" in path.read_text()} == stating
