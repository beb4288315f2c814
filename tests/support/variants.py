"""Checkpoints with another chat template, traces of training, or another config."""

import json
import shutil
from pathlib import Path
from typing import Any


# As the base Qwen2-VL-2B has it: it renders a message with a role to nothing.
FLAT = (
    "{% for item in messages %}{% if item['type'] == 'image' or 'image' in item %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in item %}{{ item['text'] }}{% endif %}{% endfor %}"
)


def variant(model: Path, folder: Path, template: str | None = None, trained: bool = False, **config: Any) -> Path:
    """Copy a checkpoint, with another chat template, traces of training, or changes to its config."""
    shutil.copytree(model, folder)
    if template:
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
        tokenizer = json.loads((folder / "tokenizer_config.json").read_text()) | {"chat_template": template}
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    if trained:
        (folder / "trainer_state.json").write_text("{}")
    changed = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(changed))
    return folder
