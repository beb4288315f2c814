"""Runs by several LlamaFactory trees, each in a fork of one process that has imported all that they stand on.

`python trees.py JOBS.json`: JOBS.json lists jobs of a `path` (folders to put first), `runs` (options by name) and a
`results` file, which gets, for each run, what the trainer logged and a hash of the trained weights.
"""

import gc
import hashlib
import importlib
import json
import os
import sys
import traceback
from pathlib import Path

from safetensors.torch import load_file


TIMINGS = ("runtime", "per_second")
STANDS_ON = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "matplotlib.pyplot", "gradio", "av")
STANDS_ON += ("transformers.models.qwen2_vl.modeling_qwen2_vl", "trl.trainer.kto_trainer", "trl.trainer.dpo_trainer")


def result(output: Path) -> dict:
    """Gather the outcome of one run without its timings."""
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    logged = [{key: v for key, v in entry.items() if not key.endswith(TIMINGS)} for entry in history]
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(output / "model.safetensors").items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return {"log": logged, "weights": digest.hexdigest()}


def work(job: dict) -> None:
    """Train all runs of a job, one after the other."""
    sys.path[:0] = job["path"]
    tuner = importlib.import_module("llamafactory.train.tuner")
    results = {"llamafactory": str(Path(tuner.__file__).parents[1])}
    for name, run in job["runs"].items():
        tuner.run_exp(run)
        results[name] = result(Path(run["output_dir"]))
    Path(job["results"]).write_text(json.dumps(results))


def main() -> None:
    """Fork for every job; exit with 1 if one fails."""
    for module in STANDS_ON:
        try:
            importlib.import_module(module)
        except ImportError:
            print(f"{module} is not there", file=sys.stderr)
    list(importlib.import_module("transformers").AutoModelForImageTextToText._model_mapping)
    gc.freeze()
    failed = False
    for job in json.loads(Path(sys.argv[1]).read_text()):
        child = os.fork()
        if child == 0:
            try:
                work(job)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        failed |= os.waitpid(child, 0)[1] != 0
    sys.exit(failed)


if __name__ == "__main__":
    main()
