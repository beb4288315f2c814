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
from ..options import Data, DatasetDir, MediaDir, Output
from ..rows import SUFFIXES
from ..sources import open_source
from ..writing import require_new_name, require_writable, whole_file


NAME = "score"
# Options that belong to one way of scoring.
LOCAL = ("kind", "backend", "batch_size", "dtype", "device", "tensor_parallel_size")
REMOTE = ("low", "high", "request_fields", "requests_per_minute", "concurrency", "timeout", "retries")
Kind = Literal["classifier", "value-head", "yes-no"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


def run(
    context: typer.Context,
    data: Data,
    output: Output,
    model: Annotated[str, typer.Option(help="a model's folder, or its name at --endpoint", show_default=False)],
    kind: Annotated[Kind | None, typer.Option(help="what the folder holds", show_default=False)] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(help="address of a chat endpoint, such as http://localhost:8000/v1", show_default=False),
    ] = None,
    rubric: Annotated[
        Path | None,
        typer.Option(
            help="what a judge is asked: a text with {question} and {answer}", show_default="see score/rubrics.py"
        ),
    ] = None,
    backend: Annotated[Literal["transformers", "vllm"], typer.Option(help="what runs the folder")] = "transformers",
    batch_size: Annotated[int, typer.Option(min=1, help="answers at a time; halved by itself where memory ends")] = 8,
    dtype: Annotated[
        Dtype, typer.Option(help="precision", show_default="on a GPU that of the weights, else float32")
    ] = "auto",
    device: Annotated[str, typer.Option(help="cuda, cuda:1, cpu, ...", show_default="a GPU if there is one")] = "auto",
    tensor_parallel_size: Annotated[int, typer.Option(min=1, help="GPUs to split a model over, with vllm")] = 1,
    image_max_pixels: Annotated[
        int, typer.Option(min=1, help="larger images are scaled down, as in training", show_default="768*768")
    ] = MAX_PIXELS,
    image_min_pixels: Annotated[int, typer.Option(min=1, help="smaller ones up", show_default="32*32")] = MIN_PIXELS,
    low: Annotated[float, typer.Option(help="the least score of an endpoint")] = 0,
    high: Annotated[float, typer.Option(help="the greatest")] = 10,
    requests_per_minute: Annotated[
        float | None, typer.Option(min=0.01, help="the most requests, retries included", show_default="no limit")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="requests under way at a time")] = 8,
    timeout: Annotated[float, typer.Option(min=0.1, help="seconds until a request has failed")] = 120,
    retries: Annotated[int, typer.Option(min=0, help="how often a failed request is sent again")] = 5,
    request_fields: Annotated[str, typer.Option(help="further fields of requests, as JSON")] = '{"temperature": 0}',
    cache: Annotated[
        Path | None, typer.Option(help="where scores are kept", show_default="OUTPUT.scores.sqlite")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace scores that rows have already")] = False,
    drop_unscored: Annotated[
        bool, typer.Option("--drop-unscored", help="leave rows out that cannot be scored, instead of writing nothing")
    ] = False,
    by: Annotated[
        str | None,
        typer.Option(help="column whose values are the subsets", show_default="the folder of MM-RLHF an image is in"),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="also write the report as JSON here", show_default=False)] = None,
    dataset_dir: DatasetDir = None,
    media_dir: MediaDir = None,
) -> None:
    r"""Give both answers of every pair a score, in the columns score_chosen and score_rejected.

    Three kinds of model in a folder, and any model behind an address:

    \b
      classifier   a reward model of transformers: its logit, or the log-odds of its two labels
      value-head   a reward model that LlamaFactory trained (stage: rm)
      yes-no       any chat model, asked "Is this a good answer?": log p(Yes) - log p(No)
      --endpoint   any OpenAI-compatible chat endpoint, asked for a number from 0 to 10

    \b
      data.py score pairs.json -o scored.json --model Qwen/Qwen2-VL-7B-Instruct --kind yes-no
      data.py score pairs.json -o scored.json --model saves/my-reward-model --kind value-head
      export OPENAI_API_KEY=...
      data.py score pairs.json -o scored.json --endpoint https://api.openai.com/v1 --model gpt-4o \
          --requests-per-minute 300

    Each answer is judged by itself, never beside the other one, so that neither the order of the two nor which of
    them is "chosen" can colour its score. The agreement with the given preference, which is reported at the end, says
    how far the scores may be trusted.

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
    taken = [*source.files]  # refuse now what could not be written hours later, or would replace something else
    for path, suffixes in ((output, SUFFIXES), (cache, [cache.suffix.lower()]), (report, [".json"])):
        if path:
            require_writable(path, suffixes)
            require_new_name(path, taken)
            taken.append(path)
    options = SimpleNamespace(**context.params)
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
    rules = (
        (options.endpoint, LOCAL, "not with --endpoint, where the model runs elsewhere"),
        (not options.endpoint, REMOTE, "only with --endpoint"),
        (not judge, ("rubric",), "only a judge is asked by a rubric: --kind yes-no, or --endpoint"),
        (not vllm, ("tensor_parallel_size",), "only with --backend vllm"),
        (vllm, ("batch_size", "device"), "not with --backend vllm, which chooses for itself"),
    )
    for holds, names, reason in rules:
        given = [name for name in names if context.get_parameter_source(name).name != "DEFAULT"]
        if holds and given:
            raise DataError(", ".join(f"--{name.replace('_', '-')}" for name in given) + f": {reason}")
    if not options.endpoint and options.kind is None:
        raise DataError("--kind says what --model is: classifier, value-head, yes-no. For a URL: --endpoint")
    if vllm and options.kind == "value-head":
        raise DataError("--backend vllm cannot read the value head of --kind value-head. Leave --backend out.")


def _scorer(options: SimpleNamespace, pictures: Any) -> Any:
    """Make the scorer that is asked for; a model is loaded only when it has something to do."""
    try:
        if options.endpoint:
            from ..score.endpoint import Endpoint

            return Endpoint(options, pictures)
        from ..score import vllm_scorers
        from ..score.checkpoints import Checkpoint
        from ..score.kinds import KINDS
    except ImportError as error:
        what = "--endpoint needs openai" if options.endpoint else "--model needs torch and transformers"
        raise DataError(f"{what} ({error}). `bash scripts/setup.sh` makes an environment with them.") from error
    if options.backend == "vllm":
        vllm_scorers.require_vllm()
    scorer = KINDS[options.kind](Checkpoint(options.model), pictures, options)
    return vllm_scorers.with_vllm(scorer, options.tensor_parallel_size) if options.backend == "vllm" else scorer


def _tell(scoring: Any, output: Path, cache: Path, report: Path | None) -> None:
    from ..score.agreement import hints, table

    summaries = {name: group.summary() for name, group in scoring.groups.items()}
    found = hints(summaries["all"])
    if report:
        counts = {"rows": scoring.rows, "left_out": scoring.left_out, "distinct_answers": scoring.distinct}
        content = {"scorer": scoring.scorer.identity, **counts, "groups": summaries, "hints": found}
        with whole_file(report) as file:
            file.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    left_out = f", {scoring.left_out:,} left out" if scoring.left_out else ""
    print(f"{output}: {scoring.rows:,} rows with scores{left_out}")
    print(f"{scoring.distinct:,} different answers, {scoring.scored:,} scored now in", end=" ")
    print(f"{timedelta(seconds=round(scoring.seconds))}; scores are kept in {cache}")
    print("\nhow often the chosen answer has the higher score, ties apart; means and SDs of scores")
    print("\n".join(table(summaries)))
    for hint in found:
        print(f"\n! {hint}")
    print(f"\nNext: data.py stats {output}   (tau_good and eta for these scores)")
