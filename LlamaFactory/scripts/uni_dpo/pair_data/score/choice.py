"""From options to a scorer; options that do not go together are named together."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from .pictures import Pictures
from .requests import Scorer
from .rubrics import NUMBER, YES_NO, read_rubric


KINDS = ("classifier", "value-head", "yes-no")
BACKENDS = ("transformers", "vllm")
FIELDS = {"temperature": 0}
OWN_FIELDS = ("model", "messages", "stream", "n")  # of a request, set here or read in one way only

# Which options belong to which way of scoring. None stands for "not given" in all of them.
LOCAL = ("kind", "backend", "batch_size", "dtype", "device", "tensor_parallel_size")
REMOTE = ("low", "high", "request_fields", "requests_per_minute", "concurrency", "timeout", "retries")
PLAIN_ONLY = ("batch_size", "device")


@dataclass(frozen=True)
class Options:
    """The options of `data.py score` that choose a scorer, named as there; None is an option that was not given."""

    model: str
    endpoint: str | None = None
    kind: str | None = None
    backend: str | None = None
    rubric: Path | None = None
    batch_size: int | None = None
    dtype: str | None = None
    device: str | None = None
    tensor_parallel_size: int | None = None
    low: float | None = None
    high: float | None = None
    request_fields: str | None = None
    requests_per_minute: float | None = None
    concurrency: int | None = None
    timeout: float | None = None
    retries: int | None = None

    def refuse(self, names: tuple[str, ...], reason: str) -> None:
        """Refuse options that are given and mean nothing here.

        Raises:
            DataError: one of them is given.
        """
        given = [f"--{name.replace('_', '-')}" for name in names if getattr(self, name) is not None]
        if given:
            raise DataError(f"{', '.join(given)}: {reason}")


def choose(options: Options, pictures: Pictures) -> Scorer:
    """Make the scorer that the options ask for; a model is loaded only when it has something to do.

    Raises:
        DataError: the options do not go together, or there is no such model.
    """
    if options.endpoint:
        return _endpoint(options, pictures)
    options.refuse(REMOTE, "only with --endpoint")
    if options.kind not in KINDS:
        raise DataError(f"--kind says what --model is: {', '.join(KINDS)}. For a model behind a URL: --endpoint")
    if options.kind != "yes-no":
        options.refuse(("rubric",), "only a judge is asked by a rubric: --kind yes-no, or --endpoint")
    if options.backend not in (None, *BACKENDS):
        raise DataError(f"--backend {options.backend}: choose one of {', '.join(BACKENDS)}.")
    if options.backend != "vllm":
        options.refuse(("tensor_parallel_size",), "only with --backend vllm")
        return _plain(options, pictures)
    if options.kind == "value-head":
        raise DataError("--backend vllm cannot read the value head of --kind value-head. Leave --backend out.")
    options.refuse(PLAIN_ONLY, "not with --backend vllm, which chooses for itself")
    from .vllm_scorers import VLLMClassifier, VLLMYesNo, require_vllm

    require_vllm()
    plain = _plain(options, pictures)
    if options.kind == "classifier" and plain.reads_images:
        raise DataError("--backend vllm takes classifiers of text only. Leave --backend out.")
    scorer = VLLMYesNo if options.kind == "yes-no" else VLLMClassifier
    return scorer(plain, options.tensor_parallel_size or 1)


def _plain(options: Options, pictures: Pictures) -> Any:
    try:
        from .checkpoints import Checkpoint
        from .kinds import Classifier, ValueHead, YesNo
    except ImportError as error:
        raise DataError(
            f"--model needs torch and transformers ({error}). `bash scripts/setup.sh` makes an environment with them."
        ) from error
    checkpoint = Checkpoint(options.model)
    common = (options.device or "auto", options.dtype or "auto", options.batch_size or 8)
    if options.kind == "yes-no":
        return YesNo(checkpoint, pictures, read_rubric(options.rubric, YES_NO), *common)
    return {"classifier": Classifier, "value-head": ValueHead}[options.kind](checkpoint, pictures, *common)


def _endpoint(options: Options, pictures: Pictures) -> Scorer:
    from .endpoint import Asking, Endpoint

    options.refuse(LOCAL, "not with --endpoint, where the model runs elsewhere")
    if not options.endpoint.startswith(("http://", "https://")):
        raise DataError(f"--endpoint {options.endpoint}: an address such as http://localhost:8000/v1 is expected.")
    scale = {name: value for name in ("low", "high") if (value := getattr(options, name)) is not None}
    given = {"concurrency": options.concurrency, "timeout": options.timeout, "retries": options.retries}
    asking = Asking(
        url=options.endpoint,
        model=options.model,
        rubric=read_rubric(options.rubric, NUMBER),
        fields=_fields(options.request_fields),
        per_minute=options.requests_per_minute,
        **scale,
        **{name: value for name, value in given.items() if value is not None},
    )
    if asking.low >= asking.high:
        raise DataError(f"--low {asking.low:g} must be below --high {asking.high:g}.")
    return Endpoint(asking, pictures)


def _fields(text: str | None) -> dict[str, Any]:
    try:
        fields = FIELDS if text is None else json.loads(text)
    except ValueError as error:
        raise DataError(f"--request-fields: not valid JSON ({error})") from error
    if not isinstance(fields, dict) or any(name in fields for name in OWN_FIELDS):
        raise DataError(f"--request-fields: a JSON object is expected, without {', '.join(OWN_FIELDS)}.")
    return fields
