"""The command `score`."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..images import MAX_PIXELS, MIN_PIXELS
from ..options import Data, DatasetDir, MediaDir, Output


NAME = "score"


def run(
    data: Data,
    output: Output,
    model: Annotated[str, typer.Option(help="a model's folder, or its name at --endpoint", show_default=False)],
    kind: Annotated[
        str | None, typer.Option(help="what the folder holds: classifier, value-head or yes-no", show_default=False)
    ] = None,
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
    backend: Annotated[
        str | None, typer.Option(help="what runs the folder: transformers or vllm", show_default="transformers")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="answers at a time; halved by itself where memory ends", show_default="8")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16", show_default="on a GPU that of the weights, else float32"),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cuda, cuda:1, cpu, ...", show_default="a GPU if there is one")
    ] = None,
    tensor_parallel_size: Annotated[
        int | None, typer.Option(min=1, help="GPUs to split a model over, with vllm", show_default="1")
    ] = None,
    image_max_pixels: Annotated[
        int, typer.Option(min=1, help="larger images are scaled down, as in training", show_default="768*768")
    ] = MAX_PIXELS,
    image_min_pixels: Annotated[int, typer.Option(min=1, help="smaller ones up", show_default="32*32")] = MIN_PIXELS,
    low: Annotated[float | None, typer.Option(help="the least score of an endpoint", show_default="0")] = None,
    high: Annotated[float | None, typer.Option(help="the greatest", show_default="10")] = None,
    requests_per_minute: Annotated[
        float | None, typer.Option(min=0.01, help="the most requests, retries included", show_default="no limit")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="requests under way at a time", show_default="8")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.1, help="seconds until a request has failed", show_default="120")
    ] = None,
    retries: Annotated[
        int | None, typer.Option(min=0, help="how often a failed request is sent again", show_default="5")
    ] = None,
    request_fields: Annotated[
        str | None, typer.Option(help="further fields of requests, as JSON", show_default='{"temperature": 0}')
    ] = None,
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
    from ..score.cache import Cache
    from ..score.choice import Options, choose
    from ..score.pictures import Pictures
    from ..score.scoring import score_pairs
    from ..sources import open_source

    source = open_source(data, dataset_dir, media_dir)
    cache = cache or output.with_name(output.name + ".scores.sqlite")
    _require_outputs(output, cache, report, source.files)
    options = Options(
        model=model,
        endpoint=endpoint,
        kind=kind,
        backend=backend,
        rubric=rubric,
        batch_size=batch_size,
        dtype=dtype,
        device=device,
        tensor_parallel_size=tensor_parallel_size,
        low=low,
        high=high,
        request_fields=request_fields,
        requests_per_minute=requests_per_minute,
        concurrency=concurrency,
        timeout=timeout,
        retries=retries,
    )
    pictures = Pictures(source, image_max_pixels, image_min_pixels)
    scorer = choose(options, pictures)
    try:
        result = score_pairs(source, scorer, pictures, Cache(cache), output, overwrite, drop_unscored, by)
    except KeyboardInterrupt:
        print(
            f"\nInterrupted. Scores so far are kept in {cache}: the same command goes on from there.", file=sys.stderr
        )
        raise
    _tell(result, output, cache, report, scorer.identity)


def _require_outputs(output: Path, cache: Path, report: Path | None, inputs: tuple[Path, ...]) -> None:
    """Refuse now what could not be written hours later, or would be written over something else."""
    from ..writing import require_new_name, require_writable

    require_writable(output)
    require_writable(cache, [cache.suffix.lower()])
    require_new_name(output, [*inputs, cache, report])
    require_new_name(cache, [*inputs, report])
    if report:
        require_writable(report, [".json"])
        require_new_name(report, inputs)


def _tell(result: Any, output: Path, cache: Path, report: Path | None, identity: dict[str, Any]) -> None:
    import json
    from datetime import timedelta

    from ..score.agreement import hints, table
    from ..score.scoring import ALL
    from ..writing import whole_file

    summaries = {name: group.summary() for name, group in result.groups.items()}
    found = hints(summaries[ALL])
    if report:
        counts = {"rows": result.rows, "left_out": result.left_out, "distinct_answers": result.distinct}
        content = {"scorer": identity, **counts, "groups": summaries, "hints": found}
        with whole_file(report) as file:
            file.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    left_out = f", {result.left_out:,} left out" if result.left_out else ""
    print(f"{output}: {result.rows:,} rows with scores{left_out}")
    print(f"{result.distinct:,} different answers, {result.scored:,} scored now in", end=" ")
    print(f"{timedelta(seconds=round(result.seconds))}; scores are kept in {cache}")
    print("\nhow often the chosen answer has the higher score, ties apart; means and SDs of scores")
    print("\n".join(table(result.groups)))
    for hint in found:
        print(f"\n! {hint}")
    print(f"\nNext: data.py stats {output}   (tau_good and eta for these scores)")
