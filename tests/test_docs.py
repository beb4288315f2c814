"""The pages: links lead somewhere, commands run, both languages give the same ones, and promises have their tests."""

import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pairs import ALPACA, ROOT, make_rows, options, write_dataset
from promises import missing
from upstream import checkout_tree


PAGES = sorted([ROOT / "README.md", ROOT / "README_zh.md", *ROOT.glob("docs/*.md")])
IN_BOTH = [page for page in PAGES if page.with_stem(f"{page.stem}_zh").is_file()]


def text_of(page: Path) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))


def headings(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"(?m)^#+ (.+)$", text_of(page))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        file, _, anchor = link.partition("#")
        if not file.startswith("http"):
            target = (page.parent / file).resolve() if file else page
            assert target.exists(), link
            assert not anchor or anchor in headings(target), link


def blocks(page: Path) -> list[list[str]]:
    """Return the blocks of commands of a page, without comments and the name of this repository."""
    found = re.findall(r"(?ms)^```bash\n(.*?)^```", page.read_text(encoding="utf-8"))
    lines = ([re.sub(r"\s+#.*|<.*?>", "", line) for line in block.splitlines()] for block in found)
    return [[line for line in block if line and not line.startswith("#")] for block in lines]


@pytest.mark.parametrize("page", IN_BOTH, ids=lambda page: page.name)
def test_both_languages_give_the_same_commands(page):
    assert blocks(page) == blocks(page.with_stem(f"{page.stem}_zh"))


# Beginnings of commands, and how they are tried. "help": whether the help knows every option of the command.
RUN, DRY, HELP, NOT = "as it is", "with --dry-run", "its help", "not at all"
HOW = {
    "git clone": NOT,  # network
    "pip install": NOT,  # network
    "cp ": RUN,
    ".venv/bin/llamafactory-cli train": RUN,
    ".venv-vllm/bin/python": NOT,  # an environment of its own: `bash scripts/test.sh vllm`
    "bash examples/uni_dpo/quickstart.sh": HELP,  # installs, then trains for minutes
    "bash examples/uni_dpo/rounds.sh": HELP,  # a real model
    "bash scripts/setup.sh": HELP,  # network
    "python scripts/uni_dpo/data.py download": HELP,  # network
    "data download": HELP,  # network
    "data score": HELP,  # a model of 7 billion parameters
    "data sample": HELP,  # a checkpoint of one's own
    "data check --config": HELP,  # the tokenizer of a model on the hub
    ".venv/bin/python -m vlmeval.uni_dpo": HELP,  # hours, and nine benchmarks to download
    ".venv/bin/python scripts/bench_start.py": HELP,  # minutes, and 3 GB
    ".venv/bin/python scripts/rounds_trial.py": HELP,  # hours
    ".venv/bin/python scripts/summarize_eval.py": HELP,  # stands on the one before
    "bash examples/uni_dpo/Qwen2_VL_2B_uni_dpo.sh": DRY,  # hours on a GPU
    "data ": RUN,
    "python scripts/install_overlay.py": RUN,
    "llamafactory-cli train": RUN,
    "python -m llamafactory.train.uni_dpo.caches": RUN,
}
CONTEXT = ("export ", "data()")  # what later lines of a block, or of the page, stand on


def defined(page):
    """Return the shell functions of a page."""
    return [line for block in blocks(page) for line in block if line.startswith("data()")][:1]


COMMANDS = {
    line: [*defined(page), *[other for other in block[: block.index(line)] if other.startswith("export ")], line]
    for page in PAGES
    if "_zh" not in page.name
    for block in blocks(page)
    for line in block
    if not line.startswith(CONTEXT)
}


def how(line: str) -> str:
    """Say how a command is tried: by the longest beginning that is known."""
    command = re.sub(r"^([A-Z_]+=\S+ )+", "", line)
    known = [start for start in HOW if command.startswith(start)]
    assert known, f"say in HOW how `{command}` is tried"
    return HOW[max(known, key=len)]


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model):
    """A copy of the repository with what the pages' commands read, where they may write."""
    place = tmp_path_factory.mktemp("pages")
    for name in ("scripts", "examples", "LlamaFactory", "VLMEvalKit"):
        (place / name).symlink_to(ROOT / name)
    (place / ".venv").symlink_to(sys.prefix)
    rows = make_rows(place / "data", 8)
    (place / "my_pairs.json").write_text(json.dumps(rows))
    (place / "data" / "my_pairs.json").write_text(json.dumps(rows))
    own = [
        {"ask": "What is it?", "picture": f"data/{rows[0]['images'][0]}", "best": "Red.", "worst": "Blue."}
        for _ in rows
    ]
    own = [row | {"points_best": 3 + n, "points_worst": 1} for n, row in enumerate(own)]
    (place / "own.json").write_text(json.dumps(own))
    told = {"candidates": [{"txt": f"It is {n}.", "marks": {"right": n, "kind": 2}} for n in range(3)]}
    told |= {"sample": {"ask": "What is it?", "media": [{"uri": f"data/{rows[0]['images'][0]}"}]}}
    (place / "export.jsonl").write_text(json.dumps(told) + "\n")
    scored = [{"text": f"It is {n}.", "score": n, "cut": False} for n in range(3)]
    asked = {"instruction": "<image>What is it?", "images": [rows[0]["images"][0]], "answers": scored}
    (place / "data" / "scored.json").write_text(json.dumps([asked]))
    shutil.copytree(place / "data", place / "data" / "uni_dpo")
    write_dataset(place / "data" / "uni_dpo", make_rows(place / "data" / "uni_dpo", 8), "pairs", ALPACA)
    ranked = place / "data" / "uni_dpo" / "MM-RLHF"
    ranked.mkdir()
    pictures = [row["images"][0] for row in rows]
    answers = [{"text": f"It is {n}.", "score": n} for n in range(3)]
    lines = [
        {"question": f"What is {n}?", "image": f"../{name}", "answers": answers} for n, name in enumerate(pictures)
    ]
    (ranked / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    checkout_tree("0.9.5", place / "home" / "LlamaFactory")
    return place


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_of_the_pages(line, place, host, tiny_model, tmp_path):
    """As far as they need no network, no GPU and no hours; what is not run is listed above."""
    tried, before, asked = how(line), COMMANDS[line][:-1], set()
    if tried == NOT:
        return
    if line.split()[0].endswith("llamafactory-cli") or "uni_dpo.caches" in line:  # the same, without an import anew
        module, words = "llamafactory.cli:main", shlex.split(line)
        if words[0] == "python":
            module, words = "llamafactory.train.uni_dpo.caches.__main__:main", words[2:]
        mine = tmp_path / "my.yaml"
        mine.write_text(json.dumps(options(tiny_model, place / "data" / "uni_dpo", tmp_path / "out")))
        short = yaml.safe_load((ROOT / "examples" / "uni_dpo" / "demo_uni_dpo.yaml").read_text())
        copied = tmp_path / "my_run.yaml"
        copied.write_text(yaml.safe_dump(short | {"model_name_or_path": str(tiny_model), "max_steps": 2}))
        there = {"my.yaml": mine, "my_run.yaml": copied, "=caches": f"={tmp_path}/caches", "=outputs": f"={tmp_path}"}
        there |= {"dir=data": f"dir={place}/data/uni_dpo", "=my_pairs": "=pairs"}
        for name, path in there.items():
            words = [word.replace(name, str(path)) for word in words]
        ending = host.run(module, *words[1:])
        assert ending.status == 0, ending.said
        return
    if tried == HELP:
        asked = set(re.findall(r" (--?[a-z][\w-]*)", line))
        before = [other for other in before if not other.startswith("export ")]
        line = re.sub(r"^([A-Z_]+=\S+ )*((?:\S*python (?:-m )?|bash |data )\S+( download)?).*", r"\2 --help", line)
    elif tried == DRY and "--dry-run" not in line:
        line += " --dry-run"
    status, said = bash(place, "\n".join(["set -e", *before, line]))
    assert status == 0, said[-3000:]
    assert all(option in said for option in asked)


@functools.cache
def bash(place: Path, script: str) -> tuple[int, str]:
    """Run a script, each only once; return its status and all that it said."""
    environment = os.environ | {"HOME": str(place / "home"), "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}"}
    command, streams = ["bash", "-c", script], {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(command, cwd=place, env=environment | {"PYTHON": sys.executable}, timeout=600, **streams)
    return done.returncode, done.stdout


def test_promises_have_their_tests():
    """tests/PROMISES.md names, for each promise, a module and words of the name of a test in it."""
    assert not missing()


def test_every_module_is_named_on_the_way_of_a_batch():
    package = ROOT / "LlamaFactory" / "src" / "llamafactory" / "train" / "uni_dpo"
    modules = {str(file.relative_to(package)) for file in package.rglob("*.py") if file.name != "__init__.py"}
    named = set(re.findall(r"`((?:\w+/)*\w+\.py)`", (ROOT / "docs" / "development.md").read_text()))
    assert modules <= named
    others = ("train/", "tests/", "scripts/", "launcher/", "pair_data/", "rounds/")
    elsewhere = {name for name in named if "/" not in name or name.startswith(others)}
    assert named - elsewhere <= modules
