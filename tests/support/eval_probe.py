"""What the adapter does inside VLMEvalKit, asked in a process of its own: importing vlmeval.vlm turns gradients off.

`python tests/support/eval_probe.py REQUEST.json ANSWER.json`, with {name: {"do": ..., ...}} in and {name: result} out.
"""

import contextlib
import io
import json
import sys
from pathlib import Path

import torch
import vlmeval.vlm


def names(request):
    """Every class that VLMEvalKit offers."""
    return sorted(name for name, value in vars(vlmeval.vlm).items() if isinstance(value, type))


def build(request):
    """The class as a config finds it."""
    return vlmeval.vlm.UniDPOQwen2VL(**request["options"])


def answers(request):
    """Answers one by one through VLMEvalKit's own entry, and in one batch."""
    model = build(request)
    single = [model.generate(message=message, dataset=request.get("dataset")) for message in request["messages"]]
    batch = model.generate_batch(request["messages"], dataset=request.get("dataset"))
    return {"single": single, "batch": batch, "class": type(model.backend.model).__name__, **model.settings}


def tokens(request):
    """The token ids that the model reads, without padding, and how they were padded."""
    model = build(request)
    questions = [model.question(message, request.get("dataset")) for message in request["messages"]]
    inputs = model.backend.inputs(questions)
    kept = [ids[mask.bool()].tolist() for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]
    return {
        "ids": kept,
        "first": inputs["attention_mask"][:, 0].tolist(),
        "last": inputs["attention_mask"][:, -1].tolist(),
    }


def prompt(request):
    """The text of prompts and what was decided about them, or the message of an error."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            model = build(request)
            questions = [model.question(message, request.get("dataset")) for message in request["messages"]]
    except ValueError as error:
        return {"error": str(error), "kind": type(error).__name__}
    return {
        "said": said.getvalue(),
        "texts": [question.text for question in questions],
        "limits": [question.limits for question in questions],
        "markup": model.writer.markup,
        "fingerprint": model.checkpoint.fingerprint(),
    }


def for_vllm(request):
    """A question as vLLM would get it."""
    from vlmeval.vlm.qwen2_vl.uni_dpo.vllm_backend import default_parallel_size, prompt

    model = build(request)
    asked = prompt(model.question(request["messages"][0]))
    sizes = [image.size for image in asked["multi_modal_data"]["image"]]
    limits = asked["mm_processor_kwargs"]
    return {
        "text": asked["prompt"],
        "sizes": sizes,
        "limits": limits,
        "gpus": default_parallel_size(model.checkpoint.config),
    }


def load(request):
    """The message of an error on loading the weights."""
    try:
        build(request).backend  # noqa: B018
    except ValueError as error:
        return str(error)


def merged(request):
    """How far the adapter's answer is from that of PEFT without merging, and from its base."""
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    model = build(request)
    inputs = model.backend.inputs([model.question(request["messages"][0])])
    base = AutoModelForImageTextToText.from_pretrained(model.checkpoint.base)
    with torch.no_grad():
        ours, plain = model.backend.model(**inputs).logits, base(**inputs).logits
        theirs = PeftModel.from_pretrained(base, model.checkpoint.folder)(**inputs).logits
    return {"to_peft": (ours - theirs).abs().max().item(), "to_base": (ours - plain).abs().max().item()}


def logits(request):
    """Logits of some tokens, by the backend's model and by what is merged for vLLM, as transformers loads it."""
    from transformers import AutoModelForImageTextToText
    from vlmeval.vlm.qwen2_vl.uni_dpo.vllm_backend import merge

    model, ids = build(request), torch.tensor(request["ids"])[None]
    found = {"backend": model.backend.model}
    if model.checkpoint.is_adapter:
        folder = merge(model.checkpoint, "float32")
        found["merged"] = AutoModelForImageTextToText.from_pretrained(folder.name)
        config = json.loads((Path(folder.name) / "config.json").read_text())
        found["tied"] = [part.get("tie_word_embeddings") for part in (config, config["text_config"])]
    with torch.no_grad():
        return {name: it if name == "tied" else it(input_ids=ids).logits[0].tolist() for name, it in found.items()}


def record(request):
    """What `training_record` says of a folder."""
    from vlmeval.vlm.qwen2_vl.uni_dpo.checkpoint import training_record

    return (
        vars(found) | {"adapters": [it.path for it in found.adapters]}
        if (found := training_record(Path(request["folder"])))
        else None
    )


if __name__ == "__main__":
    requests = json.loads(Path(sys.argv[1]).read_text())
    results = {name: globals()[request["do"]](request) for name, request in requests.items()}
    results["vlmeval"] = str(Path(vlmeval.vlm.__file__).parent.parent)
    Path(sys.argv[2]).write_text(json.dumps(results))
