"""The command line of the batched runner: the flags of VLMEvalKit's run.py."""

import argparse
import json
import sys
import traceback
from pathlib import Path

from .configs import chosen_data, chosen_models, read_config
from .errors import UniDPOError


DESCRIPTION = """\
Answer VLMEvalKit's benchmarks in batches with a checkpoint (Qwen2-VL and kin: docs/models.md), and let it score them.

Prompts, prediction files and metric files are VLMEvalKit's; only the answering is batched. The same command continues
a run that was killed. Answers are filed under the checkpoint's weights, the prompt and all settings, so those of
another checkpoint are never taken.
"""

EPILOG = """\
examples:
  python -m vlmeval.uni_dpo --config VLMEvalKit/config.json --model saves/my_run
      the nine benchmarks of the config with a checkpoint of yours; --data POPE MME takes some of them
  python -m vlmeval.uni_dpo --model a=saves/first b=saves/second --data MMBench_DEV_EN
      two checkpoints under names of your choice
  torchrun --nproc-per-node 4 -m vlmeval.uni_dpo --config VLMEvalKit/config.json --model saves/my_run
      one copy of the model on each of four GPUs
  python -m vlmeval.uni_dpo --config VLMEvalKit/config.json --model saves/my_run --use-vllm
      vLLM over as many GPUs as the model's heads allow
  OPENAI_API_KEY=... python -m vlmeval.uni_dpo --config ... --judge gpt-4o-mini
      an API model reads answers that matching cannot

exit codes: 0 all done; 1 a data set failed, the others are done; 2 wrong arguments.
"""


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    wide = argparse.RawDescriptionHelpFormatter
    it = argparse.ArgumentParser(
        "python -m vlmeval.uni_dpo", description=DESCRIPTION, epilog=EPILOG, formatter_class=wide
    )
    it.add_argument("--config", metavar="FILE", help="JSON with the models and data sets, as for run.py")
    model = (
        "checkpoint folders (the config's first model lends its other options), or names from the config; named"
        " after their last folder unless NAME is given (default: every model of the config)"
    )
    it.add_argument("--model", nargs="+", metavar="[NAME=]PATH", help=model)
    it.add_argument("--data", nargs="+", metavar="NAME", help="data sets (default: every one of the config)")
    where = "where results go (default: %(default)s)"
    it.add_argument("--work-dir", default="outputs/eval", metavar="DIR", help=where)
    mode = "answer and score, or one of them (default: all)"
    it.add_argument("--mode", choices=("all", "infer", "eval"), default="all", help=mode)
    reuse = "take answers that this very checkpoint has given before to the same prompts, and scores of them"
    reuse += " (default: yes)"
    it.add_argument("--reuse", action=argparse.BooleanOptionalAction, default=True, help=reuse)
    judge = "who reads the answers (default: the config's, or exact_matching)"
    it.add_argument("--judge", metavar="MODEL", help=judge)
    it.add_argument("--judge-args", default="{}", type=json.loads, metavar="JSON", help="more options for the judge")
    it.add_argument("--api-nproc", type=int, default=4, metavar="N", help="requests to the judge at once (default: 4)")
    sizes = "rows in a batch (default: up to 64, by the lengths of their prompts)"
    it.add_argument("--batch-size", type=_positive, metavar="N", help=sizes)
    it.add_argument("--use-vllm", action="store_true", help="answer with vLLM instead of transformers")
    verbose = "print prompts and answers of some rows, and whole tracebacks"
    it.add_argument("--verbose", action="store_true", help=verbose)
    return it


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def main(arguments: list[str] | None = None) -> int:
    """Evaluate; return 0 if everything was done, 1 if something failed, 2 if the arguments make no sense."""
    options = parser().parse_args(arguments)
    try:
        config = read_config(options.config)
        models, data = chosen_models(options, config), chosen_data(options, config)
        from ..vlm.qwen2_vl.uni_dpo.versions import check_versions  # takes seconds to import

        check_versions()
    except UniDPOError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        return _run(options, models, data, options.judge or config.get("judge") or "exact_matching")
    except KeyboardInterrupt:
        print("\nstopped; the same command continues", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace, models: dict[str, dict], data: dict[str, dict], judge: str) -> int:
    """Go through all models and data sets, and sum up in one line for each."""
    from .ranks import Ranks
    from .runner import Job, Model, alone, evaluate

    ranks = Ranks.join()
    judging = {"model": judge, "nproc": options.api_nproc, "verbose": options.verbose, **options.judge_args}
    job = Job(Path(options.work_dir), options.mode, options.reuse, judging, options.batch_size)
    lines, failed = [""], 0
    for model_name, settings in models.items():
        model = Model(model_name, settings)
        for name, config in data.items():
            try:
                with alone(job.work_dir / model_name, ranks):
                    lines.append(f"done   {model_name} {name}: {evaluate(model, name, config, job, ranks)}")
            except Exception as error:
                ours = isinstance(error, UniDPOError)
                if options.verbose or not ours:
                    traceback.print_exception(error)
                lines.append(f"FAILED {model_name} {name}: {'' if ours else f'{type(error).__name__}: '}{error}")
                failed += 1
    if ranks.rank == 0:
        print("\n".join([*lines, *([f"{failed} of {len(lines) - 1} failed"] if failed else [])]), flush=True)
    ranks.leave()
    return int(failed > 0)
