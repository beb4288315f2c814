"""Options that may differ between the start of a run and its continuation: none of them changes what is learned.

Standard library only, without relatives: the launcher of the examples loads this file by its path, before any
LlamaFactory.
"""

import re
from typing import Any


CHANGEABLE = re.compile(
    "(logging|log|save|eval|ddp|fsdp|plot|report|run|per_device|preprocessing|overwrite|torch|ray|infer|vllm"
    "|sglang|export|swanlab|trackio|include|print|predict|offload)(_.*)?|(output|cache)_dir|do_.*"
    "|dataloader_(?!drop_last).*|gradient_(accumulation|checkpointing)_.*|disable_(tqdm|gradient_checkpointing)"
    "|.*hub_token|.*_key|flash_attn|deepspeed|resume_from_checkpoint|ignore_data_skip|full_determinism"
    "|use_cpu|no_cuda|local_rank|accelerator_config"
    "|low_cpu_mem_usage|debug|data_shared_file_system|project|trust_remote_code|use_cache|remove_unused_columns"
    "|auto_find_batch_size|pref_(forward|token_budget)|uni_dpo_(log_pairs|reference_cache|image_cache|image_cache_gb)"
)
# These do not, either, where the rows themselves are compared, and for a run that has not come to its end.
CHANGEABLE_IN_TRAINING = re.compile(
    "(dataset|media)_dir|tokenized_path|load_best_model_at_end|metric_for_best_model|greater_is_better|(hub|push)(_.*)?"
)


def changed_options(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """List options that differ, as "name: before -> now"."""
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    return [f"{name}: {before.get(name, '(default)')} -> {now.get(name, '(default)')}" for name in names]
