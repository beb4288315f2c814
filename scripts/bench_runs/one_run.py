"""One training run, measured from within: `python one_run.py SPEC`, with a JSON text; the last line is JSON.

It stands alone, as every trainer runs in an environment of its own.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Run what the command line describes."""
    spec = json.loads(sys.argv[1])
    watch = (_trl if spec["trainer"] == "trl" else _llamafactory)(spec)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("\n" + json.dumps({"loaded": watch.loaded, "peak": peak, "steps": watch.steps, "start": watch.start}))


def _watch(spec: dict[str, Any]) -> Any:
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        """CPU seconds of every step, those until the first, and memory in MiB when models are loaded."""

        def __init__(self):
            self.steps, self.loaded, self.start, self._began = [], 0.0, 0.0, 0.0

        def on_train_begin(self, *args, **kwargs):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.loaded, self.start = pages * resource.getpagesize() / 2**20, time.process_time()
            self._began = self.start

        def on_step_end(self, *args, **kwargs):
            now = time.process_time()
            self.steps.append(now - self._began)
            self._began = now

    return Watch()


def _llamafactory(spec: dict[str, Any]) -> Any:
    from llamafactory.train.tuner import run_exp

    watch = _watch(spec)
    options = {
        "model_name_or_path": spec["model"],
        "dataset_dir": spec["data"],
        "media_dir": spec["data"],
        "dataset": "pairs",
        "output_dir": spec["output"],
        "template": "qwen2_vl",
        "stage": "dpo",
        "do_train": True,
        "finetuning_type": "full",
        "cutoff_len": 2048,
        "per_device_train_batch_size": spec["batch"],
        "gradient_accumulation_steps": 1,
        "max_steps": spec["steps"],
        "learning_rate": 1e-6,
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 1,
        "use_cpu": spec["cpu"],
    }
    run_exp(options | spec["options"], callbacks=[watch])
    return watch


def _trl(spec: dict[str, Any]) -> Any:
    from datasets import Dataset, Image, Sequence
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import DPOConfig, DPOTrainer

    watch, folder = _watch(spec), Path(spec["data"])
    rows = json.loads((folder / "pairs.json").read_text(encoding="utf-8"))
    told = [
        {
            "prompt": [{"role": "user", "content": row["instruction"].removeprefix("<image>")}],
            "chosen": [{"role": "assistant", "content": row["chosen"]}],
            "rejected": [{"role": "assistant", "content": row["rejected"]}],
            "images": [str(folder / name) for name in row["images"]],
        }
        for row in rows
    ]
    known = {"dtype": "float32", "trust_remote_code": False}
    models = [AutoModelForImageTextToText.from_pretrained(spec["model"], **known) for _ in range(2)]
    for name, weight in models[0].named_parameters():
        weight.requires_grad_("visual" not in name)
    config = DPOConfig(
        output_dir=spec["output"],
        per_device_train_batch_size=spec["batch"],
        max_steps=spec["steps"],
        learning_rate=1e-6,
        save_strategy="no",
        report_to="none",
        logging_steps=1,
        use_cpu=spec["cpu"],
        bf16=False,
        max_length=None,
    )
    DPOTrainer(
        model=models[0],
        ref_model=models[1],
        args=config,
        train_dataset=Dataset.from_list(told).cast_column("images", Sequence(Image())),
        processing_class=AutoProcessor.from_pretrained(spec["model"], trust_remote_code=False),
        callbacks=[watch],
    ).train()
    return watch


if __name__ == "__main__":
    main()
