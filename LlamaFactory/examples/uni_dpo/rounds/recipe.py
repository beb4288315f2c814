"""How the commands of a round are called."""

import json
import sys
from pathlib import Path
from typing import Any

from launcher import EXAMPLES
from launcher.memory import WITHOUT_REFERENCE

from .plan import Plan
from .stages import Stage


DATA = EXAMPLES.parent.parent / "scripts" / "uni_dpo" / "data.py"
SET = "round"  # the name of a round's data set, in the dataset_info.json of its folder
OF_VALIDATION = ("count", "n", "temperature", "top-p", "top_p", "top-k", "top_k", "similar", "exact", "limit")


class Recipe:
    """The stages of a plan's rounds. Round 0 is the start model."""

    def __init__(self, plan: Plan):
        """Know the plan."""
        self.plan = plan
        vllm = plan.root / ".venv-vllm" / "bin" / "python"
        wants_vllm = plan.sample.get("backend") == "vllm"
        self.sampling_python = str(vllm) if wants_vllm and vllm.is_file() else sys.executable

    def folder(self, number: int) -> Path:
        """Return the folder of a round."""
        return self.plan.output / f"round_{number}"

    def model(self, number: int) -> Path | str:
        """Return the model that a round ends with."""
        return self.folder(number) / "checkpoint" if number else self.plan.start

    def making(self, number: int) -> list[Stage]:
        """Return the stages that lead to the model of a round."""
        plan, folder, model = self.plan, self.folder(number), self.model(number - 1)
        answers, scored, pairs = (folder / f"{name}.json" for name in ("answers", "scored", "pairs"))
        sample = self._sample(plan.questions, answers, model, plan.seed + number, plan.sample)
        mix, inputs = (), (scored,)
        if "mix-share" in plan.pairs or "mix_share" in plan.pairs:
            old = self.folder(number - 1) / "pairs.json"
            mix, inputs = (("--mix", str(old)), (scored, old)) if number > 1 else ((), (scored,))
        options = plan.pairs if mix else {k: v for k, v in plan.pairs.items() if k not in ("mix-share", "mix_share")}
        for name in ("eta", "tau_good"):
            option = {"eta": "uni_dpo_qual_eta"}.get(name, f"uni_dpo_{name}")
            if option in plan.settings and name not in {given.replace("-", "_") for given in options}:
                options = options | {name: plan.settings[option]}
        report = ("--report", str(folder / "pairs_report.json"), "--seed", str(plan.seed + number))
        info = folder / "dataset_info.json"
        paired = _data("pairs", scored, "-o", pairs, *mix, *report, *as_options(options))
        named = _data("register", SET, pairs, "--dataset-dir", folder, "--replace")
        return [
            sample,
            self._score(answers, scored),
            Stage("pairs", "pairs, and what training will make of them", paired, inputs, pairs),
            Stage("register", "an entry for training", named, (pairs,), info),
            self.train(number),
        ]

    def validating(self, number: int) -> list[Stage]:
        """Return the stages that say how good the model of a round is."""
        plan, folder, model = self.plan, self.folder(number), self.model(number)
        answers, scored = folder / "validation_answers.json", folder / "validation.json"
        options = {name: value for name, value in plan.sample.items() if name not in OF_VALIDATION}
        options |= {"count": 1, "temperature": 0}
        sample = self._sample(plan.validation, answers, model, plan.seed, options, "validate", "its likeliest answers")
        score = self._score(answers, scored, "judge", "their scores")
        return [sample, score, *([self._benchmarks(number)] if plan.benchmarks else [])]

    def summary(self, count: int) -> Stage:
        """Return the stage that makes the table of benchmarks of rounds 0 to `count`."""
        plan, out = self.plan, self.plan.output / "benchmarks"
        folders = [f"{name}={plan.output / 'eval' / name}" for name in map(self.name, range(count + 1))]
        script = (sys.executable, str(plan.root / "scripts" / "summarize_eval.py"))
        command = (*script, *folders, "--baseline", self.name(0), "--out", str(out), "--data", *self._asked())
        inputs = tuple(self.folder(number) / ".done" / "benchmarks.json" for number in range(count + 1))
        # Its status 1 says that the table has gaps, as after a question without an answer.
        return Stage(f"summary_{count}", "the table of benchmarks", command, inputs, out / "table.json", ends=(0, 1))

    @staticmethod
    def name(number: int) -> str:
        """Return what tables call a round."""
        return f"round_{number}" if number else "start"

    def _sample(
        self,
        questions: tuple[str, ...],
        output: Path,
        model: Path | str,
        seed: int,
        options: dict[str, Any],
        name: str = "sample",
        what: str = "answers of the model so far",
    ) -> Stage:
        command = _data("sample", *questions, "-o", output, "--model", model, "--seed", seed, *as_options(options))
        inputs = tuple(self.plan.root / path for path in (*questions, model))
        return Stage(name, what, (self.sampling_python, *command[1:]), inputs, output)

    def _score(self, answers: Path, output: Path, name: str = "score", what: str = "scores of the answers") -> Stage:
        cache = ("--cache", str(self.plan.output / "scores.sqlite"))  # of all rounds: many say the same
        command = _data("score", answers, "-o", output, *cache, *as_options(self.plan.score))
        return Stage(name, what, command, (answers,), output)

    def train(self, number: int) -> Stage:
        """Return the stage that trains the model of a round."""
        plan, folder = self.plan, self.folder(number)
        out, pairs = folder / "checkpoint", folder / "pairs.json"
        settings = {
            "dataset": SET,
            "dataset_dir": folder,
            "media_dir": folder,
            "output_dir": out,
            "eval_dataset": "null",
            "eval_strategy": '"no"',  # or YAML takes it for false
            **self._models(number),
            **{name: folder / name.rpartition("_")[2] for name in ("uni_dpo_reference_cache",) if self._has(name)},
            **plan.train,
        }
        command = (sys.executable, str(EXAMPLES / "launch.py"), str(plan.recipe))
        command += tuple(f"{name}={_yaml(value)}" for name, value in settings.items())
        inputs = (pairs, plan.recipe, plan.root / self.model(number - 1))
        return Stage("train", "the next model", command, inputs, out)

    def _has(self, option: str) -> bool:
        return bool(self.plan.settings.get(option))

    def _models(self, number: int) -> dict[str, Any]:
        """Return which model a round trains, and which it is compared with."""
        plan, before = self.plan, [self.model(one) for one in range(1, number)]
        if plan.lora:
            stacked = {"adapter_name_or_path": ",".join(map(str, before)), "create_new_adapter": "true"}
            onward = {"adapter_name_or_path": before[-1]} if before else {}
            more = (stacked if plan.reference == "last" else onward) if before else {}
            return {"model_name_or_path": plan.start, **more}
        compared = before and plan.reference == "start" and plan.loss not in WITHOUT_REFERENCE
        return {"model_name_or_path": self.model(number - 1)} | ({"ref_model": plan.start} if compared else {})

    def _benchmarks(self, number: int) -> Stage:
        plan, name, work = self.plan, self.name(number), self.plan.output / "eval"
        command = (sys.executable, "-m", "vlmeval.uni_dpo", "--config", str(plan.benchmarks["config"]))
        command += ("--model", f"{name}={self.model(number)}", "--work-dir", str(work))
        command += ("--data", *self._asked())
        variables = {"LMUData": str(plan.root / plan.benchmarks["LMUData"])} if "LMUData" in plan.benchmarks else {}
        inputs = (plan.root / plan.benchmarks["config"], plan.root / self.model(number))
        return Stage("benchmarks", "VLMEvalKit's scores of it", command, inputs, work / name, variables)

    def _asked(self) -> list[str]:
        """Return the benchmarks that are asked: those named, or all of the config."""
        asked = self.plan.benchmarks.get("data")
        if not asked:
            config = self.plan.root / self.plan.benchmarks["config"]
            asked = list(json.loads(config.read_text(encoding="utf-8")).get("data", {}))
        return list(map(str, asked if isinstance(asked, list) else [asked]))


def _data(command: str, *arguments: Any) -> tuple[str, ...]:
    return (sys.executable, str(DATA), command, *map(str, arguments))


def as_options(options: dict[str, Any]) -> list[str]:
    """Write options of a YAML as a command line has them; a list gives an option several times."""
    written = []
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        for one in value if isinstance(value, list) else [value]:
            if one is not False and one is not None:
                written += [option] if one is True else [option, str(one)]
    return written


def _yaml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_yaml, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
