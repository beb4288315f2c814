"""Checkpoints of vision-language models in VLMEvalKit: with or without a GPU, batched, prompted as they were trained.

Where to look:

- `model.py`: the class that a config names, and what VLMEvalKit calls; `options.py`: its options;
- `families.py`: which models, and what each writes for a picture;
- `checkpoint.py`: what lies in a checkpoint folder, full or LoRA, and its fingerprint;
- `history.py`: what it tells of its training: prompt and earlier adapters;
- `portable.py`: its files in the words of transformers 4 and 5;
- `prompt.py`: the one place that writes prompts, for both backends;
- `media.py`: images and videos from the disk; `words.py`: models that see none;
- `transformers_backend.py`, `vllm_backend.py`: prompts in, answers out; `device.py`: what suits the machine;
- `loop.py`, `published.py`: for VLMEvalKit's own loop, and for configs that name its class;
- `versions.py`: the versions of VLMEvalKit and transformers that are supported.

Errors and files are those of the batched runner, `vlmeval.uni_dpo`: `python -m vlmeval.uni_dpo --help`.
"""

__version__ = "0.1.0"
