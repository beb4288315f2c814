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
    spec = json.loads(sys.argv[1]) | {"began": _now()}
    watch = {"trl": _trl, "swift": _swift, "llamafactory": _llamafactory}[spec["trainer"]](spec)
    print("\n" + json.dumps({"loaded": watch.loaded, "peak": _peak(), "steps": watch.steps, "start": watch.start}))


def _on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _now() -> float:
    """Read the clock: CPU seconds of this process, or seconds on the wall once the GPU is idle."""
    if not _on_gpu():
        return time.process_time()
    import torch

    torch.cuda.synchronize()
    return time.perf_counter()


def _used() -> float:
    """Return the memory in use, in MiB: the GPU's, or this process's."""
    if _on_gpu():
        import torch

        return torch.cuda.memory_allocated() / 2**20
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def _peak() -> float:
    """Return the most memory that was in use, in MiB."""
    if _on_gpu():
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _watch(spec: dict[str, Any]) -> Any:
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        """Seconds of every step, those until the first, and memory in MiB when models are loaded."""

        def __init__(self):
            self.steps, self.loaded, self.start, self._began = [], 0.0, 0.0, 0.0

        def on_train_begin(self, *args, **kwargs):
            self.loaded, self._began = _used(), _now()
            self.start = self._began - spec["began"]

        def on_step_end(self, *args, **kwargs):
            now = _now()
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
        "gradient_accumulation_steps": spec["accumulation"],
        "max_steps": spec["steps"],
        "bf16": not spec["cpu"],
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
    from trl.trainer import utils

    if spec["options"].get("scored_only"):  # its output layer takes every position unless there is Triton
        utils._use_triton = lambda device: True
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
        gradient_accumulation_steps=spec["accumulation"],
        max_steps=spec["steps"],
        learning_rate=1e-6,
        save_strategy="no",
        report_to="none",
        logging_steps=1,
        use_cpu=spec["cpu"],
        bf16=not spec["cpu"],
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


def _swift(spec: dict[str, Any]) -> Any:
    from swift.pipelines import rlhf_main
    from transformers import trainer

    watch, folder = _watch(spec), Path(spec["data"])
    trainer.DEFAULT_CALLBACKS.append(watch)  # its command takes none
    rows = json.loads((folder / "pairs.json").read_text(encoding="utf-8"))
    told = [
        {
            "messages": [
                {"role": "user", "content": row["instruction"]},
                {"role": "assistant", "content": row["chosen"]},
            ],
            "rejected_response": row["rejected"],
            "images": [str(folder / name) for name in row["images"]],
        }
        for row in rows
    ]
    file = Path(spec["output"] + ".jsonl")
    file.write_text("".join(json.dumps(row) + "\n" for row in told), encoding="utf-8")
    options = {
        "rlhf_type": "dpo",
        "model": spec["model"],
        "model_type": "qwen2_vl",
        "template": "qwen2_vl",
        "tuner_type": "full",
        "torch_dtype": "float32" if spec["cpu"] else "bfloat16",
        "attn_impl": "sdpa",
        "dataset": file,
        "split_dataset_ratio": 0,
        "load_from_cache_file": False,
        "max_length": 2048,
        "output_dir": spec["output"],
        "per_device_train_batch_size": spec["batch"],
        "gradient_accumulation_steps": spec["accumulation"],
        "max_steps": spec["steps"],
        "learning_rate": 1e-6,
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 1,
        "use_cpu": spec["cpu"],
        "dataloader_num_workers": 0,
    }
    options |= spec["options"]
    rlhf_main([word for name, value in options.items() for word in (f"--{name}", str(value))])
    return watch


if __name__ == "__main__":
    main()
