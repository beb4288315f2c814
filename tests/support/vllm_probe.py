"""Answers of both backends, asked in a process of its own.

`python tests/support/vllm_probe.py REQUEST.json ANSWER.json`, with
{checkpoint: {"options": arguments of the adapter, "rounds": {name: {"messages": [...], "changes": arguments}}}} in,
where changes are such as belong to the question, and {checkpoint: {name: {"vllm": [...], "transformers": [...]}}} out.
"""

import json
import sys
from pathlib import Path


def answers(options, rounds):
    """Answer all rounds with one backend, loaded once."""
    from vlmeval.vlm import UniDPOVLM

    model = UniDPOVLM(**options)
    found = {}
    for name, wish in rounds.items():
        asking = UniDPOVLM(**options | wish.get("changes", {}))
        found[name] = model.answer([asking.question(it) for it in wish["messages"]])
    return found


def both(options, rounds):
    """Answer all rounds with both backends."""
    plain, vllm = (answers(options | {"use_vllm": use}, rounds) for use in (False, True))
    return {name: {"transformers": plain[name], "vllm": vllm[name]} for name in rounds}


if __name__ == "__main__":  # vLLM's processes import this file again
    request = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(json.dumps({name: both(**wish) for name, wish in request.items()}))
