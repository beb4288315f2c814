"""Qwen2-VL and Qwen2.5-VL checkpoints in VLMEvalKit: with or without a GPU, batched, prompted as they were trained.

Where to look:

- `model.py`: the class that a config names, and what VLMEvalKit calls;
- `checkpoint.py`: what lies in a checkpoint folder, full or LoRA, and its fingerprint; `files.py`: its small files;
- `history.py`: what it tells of its training: prompt and earlier adapters;
- `prompt.py`: the one place that writes prompts, for both backends;
- `device.py`: what suits the machine;
- `media.py`: images and videos from the disk;
- `transformers_backend.py`, `vllm_backend.py`: prompts in, answers out;
- `versions.py`: the versions of VLMEvalKit and transformers that are supported.

The batched runner is in `vlmeval.uni_dpo`: `python -m vlmeval.uni_dpo --help`.
"""

__version__ = "0.1.0"
