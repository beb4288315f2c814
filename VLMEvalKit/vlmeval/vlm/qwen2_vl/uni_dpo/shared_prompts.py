"""Several answers to one question read its prompt and its pictures once.

transformers' `generate` repeats a question before it reads it: for six answers to a picture of 1,000 tokens it reads
6,000. Here the first forward pass gets each question once, and what it leaves is repeated.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def read_once(model: torch.nn.Module, inputs: Mapping[str, Any], each: int) -> Iterator[None]:
    """While open, the first forward of `generate(**inputs, num_return_sequences=each)` reads no row twice.

    Args:
        model: what generates; its cache has to know `reorder_cache`, as all of transformers' do.
        inputs: what the model reads, one row a question.
        each: answers to every question.
    """
    if each == 1:
        yield
        return
    rows = torch.arange(len(inputs["input_ids"]), device=inputs["input_ids"].device).repeat_interleave(each)

    def narrow(_: Any, arguments: tuple, given: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        before.remove()
        positions = given.get("position_ids")  # (3 or 4 kinds of position x) rows x length
        if positions is not None:
            given = given | {"position_ids": positions[..., ::each, :]}
        return arguments, given | {name: inputs[name] for name in given if name in inputs}

    def widen(_: Any, __: tuple, ___: dict[str, Any], outputs: Any) -> Any:
        after.remove()
        outputs.logits = outputs.logits[rows]
        outputs.past_key_values.reorder_cache(rows)
        for module in model.modules():  # how far positions are ahead of tokens, which Qwen2-VL and its kin keep
            deltas = getattr(module, "rope_deltas", None)
            if torch.is_tensor(deltas) and len(deltas) < len(rows):
                module.rope_deltas = deltas[rows]
        return outputs

    before = model.register_forward_pre_hook(narrow, with_kwargs=True)
    after = model.register_forward_hook(widen, with_kwargs=True)
    try:
        yield
    finally:
        before.remove()
        after.remove()
