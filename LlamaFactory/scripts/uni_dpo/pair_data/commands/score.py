"""The command `score`."""

import json
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import typer

from ..errors import DataError
from ..images import MAX_PIXELS, MIN_PIXELS
from ..options import (
    Backend,
    Concurrency,
    Data,
    DatasetDir,
    Device,
    Dtype,
    Endpoint,
    ImageMaxPixels,
    ImageMinPixels,
    MediaDir,
    OnError,
    Output,
    Report,
    RequestFields,
    RequestsPerMinute,
    Retries,
    Timeout,
    importing,
    refuse_odd,
)
from ..rows import SUFFIXES
from ..sources import open_source
from ..writing import require_outputs, whole_file


NAME = "score"
# Options that belong to one way of scoring.
LOCAL = ("kind", "backend", "batch_size", "dtype", "device", "tensor_parallel_size")
REMOTE = ("low", "high", "request_fields", "requests_per_minute", "concurrency", "timeout", "retries")
RULED = ("reference", "time_limit", "workers")
Kind = Literal["classifier", "value-head", "yes-no"]


def run(
    context: typer.Context,
    data: Data,
    output: Output,
    model: Annotated[
        str | None, typer.Option(help="a model's folder, or its name at --endpoint", show_default=False)
    ] = None,
    kind: Annotated[Kind | None, typer.Option(help="what the folder holds", show_default=False)] = None,
    endpoint: Endpoint = None,
    rule: Annotated[
        str | None,
        typer.Option(help="FILE.py:FUNCTION, or a ready rule, instead of a model; see above", show_default=False),
    ] = None,
    reference: Annotated[str, typer.Option(help="column of right answers, for a rule", show_default="reference")] = "",
    time_limit: Annotated[float, typer.Option(min=0.1, help="seconds that a rule may take for one answer")] = 10,
    workers: Annotated[
        int | None, typer.Option(min=1, help="processes that run a rule", show_default="one a core, 8 at most")
    ] = None,
    rubric: Annotated[
        Path | None,
        typer.Option(
            help="what a judge is asked: a text with {question} and {answer}", show_default="see score/rubrics.py"
        ),
    ] = None,
    backend: Backend = "transformers",
    batch_size: Annotated[int, typer.Option(min=1, help="answers at a time; halved by itself where memory ends")] = 8,
    dtype: Annotated[
        Dtype, typer.Option(help="precision", show_default="on a GPU that of the weights, else float32")
    ] = "auto",
    device: Device = "auto",
    tensor_parallel_size: Annotated[int, typer.Option(min=1, help="GPUs to split a model over, with vllm")] = 1,
    image_max_pixels: ImageMaxPixels = MAX_PIXELS,
    image_min_pixels: ImageMinPixels = MIN_PIXELS,
    low: Annotated[float, typer.Option(help="the least score of an endpoint")] = 0,
    high: Annotated[float, typer.Option(help="the greatest")] = 10,
    requests_per_minute: RequestsPerMinute = None,
    concurrency: Concurrency = 8,
    timeout: Timeout = 120,
    retries: Retries = 5,
    request_fields: RequestFields = '{"temperature": 0}',
    cache: Annotated[
        Path | None, typer.Option(help="where scores are kept", show_default="OUTPUT.scores.sqlite")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace scores that rows have already")] = False,
    on_error: OnError = "finish",
    drop_unscored: Annotated[bool, typer.Option("--drop-unscored", hidden=True)] = False,
    by: Annotated[
        str | None,
        typer.Option(help="column whose values are the subsets", show_default="the folder of MM-RLHF an image is in"),
    ] = None,
    report: Report = None,
    dataset_dir: DatasetDir = None,
    media_dir: MediaDir = None,
) -> None:
    r"""Give every answer a score: both of a pair, in score_chosen and score_rejected, or all that data.py sample drew.

    Three kinds of model in a folder, any model behind an address, and any rule:

    \b
      classifier   a reward model of transformers: its logit, or the log-odds of its two labels
      value-head   a reward model that LlamaFactory trained (stage: rm)
      yes-no       any chat model, asked "Is this a good answer?": log p(Yes) - log p(No)
      --endpoint   any OpenAI-compatible chat endpoint, asked for a number from 0 to 10
      --rule       a function of yours, or a ready one that compares with a right answer

    \b
      data.py score pairs.json -o scored.json --model Qwen/Qwen2-VL-7B-Instruct --kind yes-no
      data.py score pairs.json -o scored.json --model saves/my-reward-model --kind value-head
      export OPENAI_API_KEY=...
      data.py score pairs.json -o scored.json --endpoint https://api.openai.com/v1 --model gpt-4o \
          --requests-per-minute 300
      data.py score answers.json -o scored.json --rule my_rules.py:points --on-error skip

    A rule is a Python function that returns a number. Its parameters say what it gets: any of question, answer,
    reference (the first right answer), references (all), images (as in training), system, history and row (all other
    columns). It runs in processes of its own; an answer that takes longer than --time-limit, raises, or gets no finite
    number is named with its row, and the others go on.

    \b
      def points(question, answer, reference):
          return 10 * (answer.strip() == reference) - 0.01 * len(answer)

    Ready rules give 1 for right and 0 for wrong: exact-match (whole texts), numeric-match (the last number),
    multiple-choice (a letter, or the text of an option), yes-or-no (the first); and VLMEvalKit's own judging of short
    answers, vlmeval-vqa, vlmeval-relaxed (ChartQA) and vlmeval-anls (DocVQA). A changed file scores anew; what it
    imports is not looked at.

    Each answer is judged by itself, never beside the other one, so that neither the order of the two nor which of
    them is "chosen" can colour its score. The agreement with the given preference, which is reported at the end, says
    how far the scores may be trusted.

    --on-error says what becomes of an answer that cannot be scored: by default all others are scored first, and
    nothing is written.

    Run it again after whatever ended it: a score is kept as soon as it is there, by the content of question, answer
    and images and by the scorer, and never asked for twice. The output appears when every row has both scores.

    Models lay out dialogues by their own chat template. For value-head that must say what LlamaFactory's template
    said in training; for Qwen2-VL it does. Nothing is cut to a cutoff_len.

    Scales differ: the published thresholds (tau_good 2.5, eta 0.7) belong to the scores of the published data. Look at
    yours with `data.py stats` and take the values that it suggests.
    """
    from ..kept import Kept
    from ..score.pictures import Pictures
    from ..score.run import Run

    source = open_source(data, dataset_dir, media_dir)
    cache = cache or output.with_name(output.name + ".scores.sqlite")
    require_outputs(source.files, (output, SUFFIXES), (cache, [cache.suffix.lower()]), (report, [".json"]))
    options = SimpleNamespace(**context.params)
    options.on_error = "skip" if drop_unscored else on_error
    _require_consistent(options, context)
    pictures = Pictures(source, image_max_pixels, image_min_pixels)
    scoring = Run(source, _scorer(options, pictures), pictures, Kept(cache), options)
    try:
        scoring.write(output)
    except KeyboardInterrupt:
        print(f"\nInterrupted. Scores so far are kept in {cache}: the same command continues.", file=sys.stderr)
        raise
    _tell(scoring, output, cache, report)


def _require_consistent(options: SimpleNamespace, context: typer.Context) -> None:
    """Refuse options that are given and mean nothing beside the others."""
    vllm, judge = options.backend == "vllm", options.endpoint or options.kind == "yes-no"
    if bool(options.rule) == bool(options.model):
        raise DataError("say what gives the scores: --model (a folder, or a name at --endpoint), or --rule")
    rules = (
        (options.rule, ("endpoint", *LOCAL), "not with --rule, which needs no model"),
        (not options.rule, RULED, "only with --rule"),
        (options.endpoint, LOCAL, "not with --endpoint, where the model runs elsewhere"),
        (not options.endpoint, REMOTE, "only with --endpoint"),
        (not judge, ("rubric",), "only a judge is asked by a rubric: --kind yes-no, or --endpoint"),
        (not vllm, ("tensor_parallel_size",), "only with --backend vllm"),
        (vllm, ("batch_size", "device"), "not with --backend vllm, which chooses for itself"),
    )
    refuse_odd(context, rules)
    if not options.rule and not options.endpoint and options.kind is None:
        raise DataError("--kind says what --model is: classifier, value-head, yes-no. For a URL: --endpoint")
    if vllm and options.kind == "value-head":
        raise DataError("--backend vllm cannot read the value head of --kind value-head. Leave --backend out.")


def _scorer(options: SimpleNamespace, pictures: Any) -> Any:
    """Make the scorer that is asked for; a model is loaded only when it has something to do."""
    if options.rule:
        from ..score.rules import Rule

        return Rule(options, pictures)
    with importing(options.endpoint):
        if options.endpoint:
            from ..score import endpoint

            return endpoint.Endpoint(options, pictures)
        from ..score import vllm_scorers
        from ..score.checkpoints import Checkpoint
        from ..score.kinds import KINDS
    if options.backend == "vllm":
        vllm_scorers.require_vllm()
    scorer = KINDS[options.kind](Checkpoint(options.model), pictures, options)
    return vllm_scorers.with_vllm(scorer, options.tensor_parallel_size) if options.backend == "vllm" else scorer


def _tell(scoring: Any, output: Path, cache: Path, report: Path | None) -> None:
    measures = scoring.layout.measures
    summaries = {name: group.summary() for name, group in scoring.groups.items()}
    found = measures.hints(summaries["all"])
    if report:
        counts = {"rows": scoring.rows, "left_out": scoring.left_out, "distinct_answers": scoring.distinct}
        content = {"scorer": scoring.scorer.identity, **counts, "groups": summaries, "hints": found}
        with whole_file(report) as file:
            file.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    what = "" if scoring.layout.whole else " answers or rows"
    left_out = f", {scoring.left_out:,}{what} left out" if scoring.left_out else ""
    print(f"{output}: {scoring.rows:,} rows with scores{left_out}")
    print(f"{scoring.distinct:,} different answers, {scoring.scored:,} scored now in", end=" ")
    print(f"{timedelta(seconds=round(scoring.seconds))}; scores are kept in {cache}")
    print("\n" + "\n".join(measures.table(summaries)))
    for hint in found:
        print(f"\n! {hint}")
    print(f"\nNext: {scoring.layout.next.format(output=output)}")
