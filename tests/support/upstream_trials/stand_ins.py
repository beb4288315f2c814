"""Tiny random models for those of the hub that upstream's tests ask for, through the variables that they read.

`python stand_ins.py FOLDER` makes them, with torch and transformers. Upstream's tests compare models with each other
and tokenizers with themselves, so that any weights do.
"""

import json
import os
import sys
from pathlib import Path


SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
)
TEMPLATE = (
    "{{ '<|begin_of_text|>' }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\n\n' + message['content'] + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
ROWS = [
    {"instruction": f"What is number {i}?", "input": "", "output": f"It is {i}." + " Indeed." * (i % 3)}
    for i in range(32)
]


def variables(folder: Path) -> dict[str, str]:
    """Return the variables that lead upstream's tests to the stand-ins, as far as these are there."""
    places = {"TINY_LLAMA3": "llama", "TINY_LLAMA_ADAPTER": "adapter", "TINY_DATA": "data"}
    return {name: str(folder / place) for name, place in places.items() if (folder / place).is_dir()}


def make(folder: Path) -> None:
    """Make all stand-ins in a folder that does not exist yet."""
    scratch = folder.with_name(f".{folder.name}-{os.getpid()}")
    make_llama(scratch / "llama")
    make_adapter(scratch / "llama", scratch / "adapter")
    (scratch / "data").mkdir()
    (scratch / "data" / "train.json").write_text(json.dumps(ROWS))
    scratch.rename(folder)


def make_llama(folder: Path) -> None:
    """Make a Llama of two layers with a tokenizer of bytes and Llama-3's special tokens."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=SPECIAL[0], eos_token=SPECIAL[4], pad_token=SPECIAL[4]
    )
    fast.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=16,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
    )
    LlamaForCausalLM(config).half().save_pretrained(folder)
    fast.save_pretrained(folder)


def make_adapter(base: Path, folder: Path) -> None:
    """Make a LoRA adapter of the Llama."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(r=8, target_modules=targets, task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base, trust_remote_code=False), config).save_pretrained(folder)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
