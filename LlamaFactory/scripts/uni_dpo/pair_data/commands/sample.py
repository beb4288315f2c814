"""The command `sample`."""

import json
import sys
from datetime import timedelta
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Annotated, Any

import typer

from ..errors import DataError
from ..images import MAX_PIXELS, MIN_PIXELS
from ..options import (
    Backend,
    Concurrency,
    Config,
    Device,
    Dtype,
    Endpoint,
    ImageDir,
    ImageMaxPixels,
    ImageMinPixels,
    Limit,
    OnError,
    Output,
    Report,
    RequestFields,
    RequestsPerMinute,
    Retries,
    Split,
    Strict,
    Timeout,
    importing,
    is_given,
    refuse_odd,
)
from ..rows import SUFFIXES
from ..writing import require_outputs, whole_file


NAME = "sample"
# Options that belong to one way of sampling.
LOCAL = ("backend", "batch_size", "dtype", "device", "tensor_parallel_size")
REMOTE = ("request_fields", "requests_per_minute", "concurrency", "timeout", "retries")


def run(
    context: typer.Context,
    sources: Annotated[
        list[str],
        typer.Argument(metavar="QUESTIONS...", help="files, folders or hub ids, as for data.py convert"),
    ],
    output: Output,
    model: Annotated[
        str, typer.Option(help="a checkpoint, full or LoRA, or a model's name at --endpoint", show_default=False)
    ],
    endpoint: Endpoint = None,
    backend: Backend = "transformers",
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="answers to each question")] = 4,
    temperature: Annotated[float, typer.Option(min=0, max=5, help="of the draws; 0 takes the likeliest token")] = 1.0,
    top_p: Annotated[float, typer.Option(min=0.001, max=1, help="draw from this share of likeliest tokens")] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="draw from so many likeliest tokens; 0 for all")] = 0,
    max_tokens: Annotated[int, typer.Option(min=1, help="where an answer is cut")] = 512,
    stop: Annotated[
        list[str] | None, typer.Option(help="text that ends an answer; may be given several times", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="of all draws; another one gives other answers")] = 0,
    similar: Annotated[
        float, typer.Option(min=0, max=1, help="share of words from which two answers count as one, see above")
    ] = 1.0,
    exact: Annotated[bool, typer.Option("--exact", help="tell apart by case, spaces and marks, too")] = False,
    system: Annotated[
        str, typer.Option(help="a system prompt for all questions without one", show_default="that of training")
    ] = "",
    batch_size: Annotated[
        int, typer.Option(min=1, help="answers drawn at a time", show_default="32; 512 with vllm")
    ] = 32,
    dtype: Annotated[Dtype, typer.Option(help="precision", show_default="bfloat16 on a GPU, else float32")] = "auto",
    device: Device = "auto",
    tensor_parallel_size: Annotated[
        int | None, typer.Option(min=1, help="GPUs to split a model over, with vllm", show_default="as many as fit")
    ] = None,
    image_max_pixels: ImageMaxPixels = MAX_PIXELS,
    image_min_pixels: ImageMinPixels = MIN_PIXELS,
    requests_per_minute: RequestsPerMinute = None,
    concurrency: Concurrency = 8,
    timeout: Timeout = 120,
    retries: Retries = 5,
    request_fields: RequestFields = "{}",
    on_error: OnError = "finish",
    cache: Annotated[
        Path | None, typer.Option(help="where answers are kept", show_default="OUTPUT.answers.sqlite")
    ] = None,
    report: Report = None,
    shape: Annotated[str, typer.Option("--from", help="shape of the questions, if not to be recognised")] = "",
    question: Annotated[str, typer.Option(help="column of the question")] = "",
    image: Annotated[str, typer.Option(help="column of the image or images")] = "",
    reference: Annotated[
        str, typer.Option(help="column of right answers, for rules", show_default="reference, answer, solution, ...")
    ] = "",
    keep: Annotated[
        str, typer.Option(help="columns of the questions that answers keep, for rules, with commas between")
    ] = "",
    image_prefix: Annotated[
        str | None, typer.Option(help="put before relative image paths, as in convert", show_default=False)
    ] = None,
    image_dir: ImageDir = None,
    media_dir: Annotated[
        Path | None, typer.Option(help="where image paths start (default: the questions' folder)", show_default=False)
    ] = None,
    split: Split = "",
    config: Config = "",
    limit: Limit = None,
    strict: Strict = False,
) -> None:
    r"""Have a model answer questions, several times each: the first step to pairs of its own answers.

    \b
      data.py sample questions.jsonl -o answers.json --model saves/my-checkpoint -n 8
      data.py score  answers.json    -o scored.json  --rule exact-match
      data.py pairs  scored.json     -o pairs.json

    Questions are rows with a question, maybe with images and with a right answer ({"question": ..., "image": ...,
    "answer": ...}; also messages, or instruction and output), or any set that data.py convert reads, whose own answers
    are then passed over.

    A checkpoint of our training, full or LoRA, is asked with the prompt that it was trained with, token by token, and
    with images scaled as in training. With --endpoint the server's own chat template writes the prompt; each answer
    says so, and what the server calls itself.

    The output has a row for each question, in their order, with its distinct answers in the column "answers": the
    text, how often it came ("times"), its length in tokens, whether it was cut at --max-tokens, and who gave it
    ("by": model, hash of its weights, settings, seed). Answers that differ in upper and lower case, spaces, or marks
    at their ends are one; with --exact they are not, for rules that mark the form. --similar 0.9 makes one of two
    answers with nine tenths of their words alike, unless their numbers differ; with care, for "left" and "right" may
    be all that matters.

    Run it again after whatever ended it, kill -9 included. Questions are asked in batches with seeds of their own, and
    answers are kept batch by batch, by the content of questions and images, the weights and the settings. On a CPU
    with transformers the result is, to the letter, that of a run that nothing ended. The output appears when all
    questions have their answers.
    """
    from ..convert.fields import Fields
    from ..convert.questions import Reading
    from ..kept import Kept
    from ..sample.merging import require_rapidfuzz
    from ..sample.questions import Questions
    from ..sample.run import Run
    from ..score.pictures import Pictures
    from ..sources import Source

    cache = cache or output.with_name(output.name + ".answers.sqlite")
    require_outputs(map(Path, sources), (output, SUFFIXES), (cache, [cache.suffix.lower()]), (report, [".json"]))
    options = SimpleNamespace(**context.params | {"stop": stop or []})
    _require_consistent(options, context)
    require_rapidfuzz(similar)
    fields = Fields(question=question, image=image)
    reading = Reading(shape, fields, image_prefix, media_dir, split, config, True, strict, limit, plain=True)
    home = Source(output.name, (), {}, output.resolve().parent)
    sampler = _sampler(options, Pictures(home, image_max_pixels, image_min_pixels))
    asked, kept = (
        Questions(sources, reading, output, image_dir, reference, keep),
        Kept(cache, "answers", "answers TEXT"),
    )
    sampling = Run(asked, sampler, kept, options)
    start = monotonic()
    try:
        sampling.write(output)
    except KeyboardInterrupt:
        print(f"\nInterrupted. Answers so far are kept in {cache}: the same command continues.", file=sys.stderr)
        raise
    _tell(sampling, options, monotonic() - start, cache)


def _require_consistent(options: SimpleNamespace, context: typer.Context) -> None:
    """Refuse options that are given and mean nothing beside the others."""
    vllm = options.backend == "vllm"
    rules = (
        (options.endpoint, LOCAL, "not with --endpoint, where the model runs elsewhere"),
        (not options.endpoint, REMOTE, "only with --endpoint"),
        (not vllm, ("tensor_parallel_size",), "only with --backend vllm"),
        (vllm, ("device",), "not with --backend vllm, which chooses for itself"),
    )
    refuse_odd(context, rules)
    if options.temperature == 0 and options.count > 1:
        raise DataError(f"--temperature 0 gives {options.count} equal answers: add -n 1, or raise it.")
    if options.temperature == 0 and (options.top_p < 1 or options.top_k):
        raise DataError("--temperature 0 takes the likeliest token: leave --top-p and --top-k out.")
    if options.exact and options.similar < 1:
        raise DataError("--exact tells answers apart that --similar would make one: leave one of them out.")
    if any(not text for text in options.stop):
        raise DataError("--stop: an empty text would end every answer before it begins.")
    if vllm and not is_given(context, "batch_size"):
        options.batch_size = 512


def _sampler(options: SimpleNamespace, pictures: Any) -> Any:
    """Make the sampler that is asked for; a model is loaded only when it has something to do."""
    with importing(options.endpoint):
        if options.endpoint:
            from ..sample import endpoint

            return endpoint.Endpoint(options, pictures)
        from ..sample.checkpoint import Checkpoint
    if options.backend == "vllm":
        from ..score.vllm_scorers import require_vllm

        require_vllm()
    return Checkpoint(options, pictures)


def _tell(sampling: Any, options: SimpleNamespace, seconds: float, cache: Path) -> None:
    from ..sample.report import hints, page

    found = sampling.tally.summary()
    said = hints(found)
    reading = sampling.questions.report
    if options.report:
        left = {f"{what}: {why}": count for (what, why), count in reading.left.items()}
        content = {"by": sampling.sampler.by, **found, "rows_read": reading.read, "rows_left_out": left, "hints": said}
        with whole_file(options.report) as file:
            file.write(json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n")
    print("\n".join(page(found, options.max_tokens)))
    if reasons := reading.reasons():
        print(reasons)
    print(
        f"{sampling.sampled:,} questions asked now in {timedelta(seconds=round(seconds))}; answers are kept in {cache}"
    )
    for hint in said:
        print(f"\n! {hint}")
    print(f"\nNext: data.py score {options.output} -o SCORED.json --rule ... or --model ...")
