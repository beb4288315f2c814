"""What our class and the batched runner do inside VLMEvalKit, asked in a process of its own.

`python tests/support/eval_probe.py serve` answers one request a line, {"do": FUNCTION, ...}, until it is killed.
`python tests/support/eval_probe.py REQUEST.json ANSWER.json` takes {name: {"do": FUNCTION, ...}} and writes
{name: result}.
"""

import contextlib
import copy
import inspect
import io
import json
import os
import runpy
import socket
import sys
import traceback
from pathlib import Path

import torch
import vlmeval.vlm


def data(request):
    """How a data command ends that needs the class, and what it prints; imports that it makes are made already."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "uni_dpo"))
    from pair_data.cli import main

    said, before = io.StringIO(), sys.argv
    sys.argv = ["data.py", *request["arguments"]]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            main()
        status = 0
    except SystemExit as left:
        status = left.code
    finally:
        sys.argv = before
    return {"exit": status, "text": said.getvalue()}


def judged(request):
    """What ready rules of `data.py score` say that have VLMEvalKit judge: [rule, right answers, answer]."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "uni_dpo"))
    from pair_data.score import ready_rules

    return [ready_rules.prepared(name)(answer, right) for name, right, answer in request["cases"]]


def sampled_tokens(request):
    """The token ids that a checkpoint reads when it is sampled: images scaled before the processor sees them."""
    model, (least, most) = build(request), request["pixels"]
    questions = [model.worded(it, system=request["system"]).scaled_first(least, most) for it in request["messages"]]
    inputs = model.backend.inputs(questions)
    rows = zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    return [ids[mask.bool()].tolist() for ids, mask in rows]


def drawn(request):
    """Three answers to each question, drawn with prompts read once and read three times, and the rows read first."""
    model, rows = build(request), []
    backend, asked = model.backend, [model.question(it) for it in request["messages"]]
    backend.model.get_input_embeddings().register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    together = [[reply.text for reply in each] for each in backend.sample(asked, 3, 0, [])]
    first, rows[:] = rows[0], []
    apart = backend.sample([copy.copy(it) for it in asked for _ in range(3)], 1, 0, [])
    return {"together": sum(together, []), "apart": [reply.text for [reply] in apart], "rows": [first, rows[0]]}


def names(request):
    """Every class that VLMEvalKit offers."""
    return sorted(name for name, value in vars(vlmeval.vlm).items() if isinstance(value, type))


def build(request):
    """The class as a config finds it."""
    return vlmeval.vlm.UniDPOVLM(**request["options"])


def answers(request):
    """Answers one by one through VLMEvalKit's own entry, and in one batch."""
    model = build(request)
    single = [model.generate(message=message, dataset=request.get("dataset")) for message in request["messages"]]
    batch = model.answer([model.question(it, request.get("dataset")) for it in request["messages"]])
    return {"single": single, "batch": batch, "class": type(model.backend.model).__name__, **model.settings}


def tokens(request):
    """The token ids that the model reads, without padding, and how they were padded."""
    model = build(request)
    inputs = model.backend.inputs([model.question(it, request.get("dataset")) for it in request["messages"]])
    ids, masks = inputs["input_ids"], inputs["attention_mask"]
    kept = [row[mask.bool()].tolist() for row, mask in zip(ids, masks, strict=True)]
    return {"ids": kept, "first": masks[:, 0].tolist(), "last": masks[:, -1].tolist()}


def batches(request):
    """How rows of some lengths are put together."""
    from types import SimpleNamespace

    from vlmeval.uni_dpo.batches import BatchSize, batches_of

    return batches_of([SimpleNamespace(length=length) for length in request["lengths"]], BatchSize(*request["size"]))


def prompt(request):
    """The text of prompts and what was decided about them, or the message of an error."""
    from vlmeval.uni_dpo.errors import UniDPOError

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            model = build(request)
            texts = [model.question(message, request.get("dataset")).text for message in request["messages"]]
    except UniDPOError as error:
        return {"error": str(error)}
    markup, fingerprint = model.writer.markup, model.checkpoint.fingerprint()
    return {"said": said.getvalue(), "texts": texts, "markup": markup, "fingerprint": fingerprint}


def set_aside(request):
    """The files of a model that are left when those of a data set with parts are set aside."""
    from types import SimpleNamespace

    from vlmeval.uni_dpo.results import Results

    home = Path(request["work_dir"]) / "tiny"
    (home / "answers").mkdir()
    results = Results(home, home, "tiny", request["data"])
    results._set_aside(SimpleNamespace(dataset_map=dict.fromkeys(request["parts"])))
    return sorted(path.name for path in home.iterdir() if path.is_file())


def not_scored(request):
    """Why data sets with such answers are not scored."""
    from types import SimpleNamespace

    import pandas as pd
    from vlmeval.uni_dpo.checks import why_not_scored

    tables = {name: pd.DataFrame({"answer": answers}) for name, answers in request["sets"].items()}
    return {name: why_not_scored(SimpleNamespace(dataset_name=name, data=it)) for name, it in tables.items()}


def settings(request):
    """What answers are kept by, beside weights and questions."""
    return build(request).settings


def for_vllm(request):
    """A question as vLLM would get it."""
    from vlmeval.vlm.qwen2_vl.uni_dpo.vllm_backend import default_parallel_size, prompt

    model = build(request)
    tokenizer, question = model.processor.tokenizer, model.question(request["messages"][0])
    asked = prompt(question, tokenizer, model.checkpoint.image_options)
    sizes = [image.size for image in asked["multi_modal_data"]["image"]]
    gpus = default_parallel_size(model.checkpoint.base)
    text = tokenizer.decode(asked["prompt_token_ids"])
    return {"text": text, "sizes": sizes, "limits": asked["mm_processor_kwargs"], "gpus": gpus}


def banned(request):
    """The tokens that a folder forbids vLLM, or the message of an error."""
    from vlmeval.uni_dpo.errors import UniDPOError
    from vlmeval.vlm.qwen2_vl.uni_dpo.vllm_sampling import banned_tokens

    try:
        return banned_tokens(Path(request["folder"]))
    except UniDPOError as error:
        return str(error)


def load(request):
    """The message of an error on loading the weights."""
    from vlmeval.uni_dpo.errors import UniDPOError

    try:
        build(request).backend  # noqa: B018
    except UniDPOError as error:
        return str(error)


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
    from vlmeval.vlm.qwen2_vl.uni_dpo.history import training_record

    return training_record(Path(request["folder"]))


def device(request):
    """Number format and attention on a GPU of a kind, and without one, with the `flash_attn` of a folder."""
    from unittest import mock

    from vlmeval.vlm.qwen2_vl.uni_dpo import device

    sys.modules.pop("flash_attn", None)
    cuda = {"is_available": lambda: True, "get_device_capability": lambda: tuple(request["capability"])}
    with (
        mock.patch.object(sys, "path", [request["folder"], *sys.path]),
        mock.patch.multiple(torch.cuda, **cuda),
        mock.patch.object(device, "is_flash_attn_2_available", lambda: True),
    ):
        dtypes = {kind: device.default_dtype(kind) for kind in ("cuda", "cpu")}
        return {kind: [dtype, device.default_attention(kind, dtype)] for kind, dtype in dtypes.items()}


def published(request):
    """What became of VLMEvalKit's `Qwen2VLChat`."""
    from vlmeval.vlm.qwen2_vl import model as upstream

    theirs, (trained, downloaded) = vlmeval.vlm.Qwen2VLChat, request["paths"]

    class Derived(theirs):
        pass

    model = theirs(trained, **request["options"])
    return {
        "same": theirs is upstream.Qwen2VLChat and theirs.__module__ == upstream.__name__,
        "instance": isinstance(model, theirs) and isinstance(model, vlmeval.vlm.UniDPOVLM),
        "copied": type(copy.copy(model)) is type(model),
        "derived": type(Derived.__new__(Derived, trained)) is Derived,
        "attributes": [theirs.INTERLEAVE, theirs.VIDEO_LLM, theirs.INSTALL_REQ],
        "parameter": next(iter(inspect.signature(theirs).parameters)),
        "theirs": [type(theirs.__new__(theirs, path)) is theirs for path in (downloaded, "Qwen/Qwen2-VL-2B", trained)],
        "sampling": theirs(trained, do_sample=True).generation,
        "share": theirs(trained, gpu_utils=0.5).options["gpu_memory_utilization"],
    }


def command(request):
    """Run our command, or VLMEvalKit's own; what it prints to both streams is the text."""
    from vlmeval.uni_dpo.cli import main

    os.environ["LMUData"] = request["data"]
    text, code, argv = io.StringIO(), 0, sys.argv
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            if request.get("theirs"):
                _their_loop(request["arguments"])
            else:
                code = main(request["arguments"])
        except SystemExit as end:
            code = end.code
            if isinstance(code, str):  # what Python does of it
                print(code)
                code = 1
        except Exception:
            traceback.print_exc()
            code = 1
    sys.argv = argv
    return {"exit": code, "text": text.getvalue()}


def ranks(request):
    """Run our command as torchrun would on two ranks, in forks of this process; return their exit statuses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    children = []
    for rank in range(2):
        child = os.fork()
        if not child:
            os.environ |= meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            os._exit(command(request)["exit"])
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def _their_loop(arguments):
    script = Path(vlmeval.__file__).parent.parent / "run.py"
    sys.argv = [str(script), *arguments]
    if script.is_file():
        runpy.run_path(str(script), run_name="__main__")
    else:
        runpy.run_module("vlmeval.run", run_name="__main__", alter_sys=True)


def serve():
    """Answer requests; whatever libraries print goes elsewhere."""
    import vlmeval.dataset

    for kind in vlmeval.dataset.DATASET_CLASSES:
        kind.DATASET_MD5 = {}  # local rows under a benchmark's name are taken as they are
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"result": globals()[request["do"]](request)}
        except Exception:
            answer = {"failed": traceback.format_exc()}
        print(json.dumps(answer), file=channel, flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        requests = json.loads(Path(sys.argv[1]).read_text())
        results = {name: globals()[request["do"]](request) for name, request in requests.items()}
        Path(sys.argv[2]).write_text(json.dumps(results))
