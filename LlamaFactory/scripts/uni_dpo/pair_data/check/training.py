"""What a training run would read: its options, from its YAML or the command line, and its `tokenized_path`."""

import difflib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..descriptions import find
from ..errors import DataError
from ..settings import load_yaml, parse_options
from ..sources import open_source
from .findings import Findings
from .plan import Plan


@dataclass
class Options:
    """LlamaFactory's own options: its `DataArguments` and its `ModelArguments`."""

    data: Any
    model: Any


def read_options(given: dict[str, Any]) -> Options:
    """Let LlamaFactory read those options that are about data or model, so that its defaults hold."""
    try:
        from llamafactory.hparams import DataArguments, ModelArguments
    except ImportError as error:
        raise DataError(f"LlamaFactory is needed for this, and cannot be imported: {error}") from error
    made = []
    for group in (DataArguments, ModelArguments):
        known = {option.name for option in fields(group) if option.init}
        try:
            made.append(group(**{name: value for name, value in given.items() if name in known}))
        except (TypeError, ValueError) as error:
            raise DataError(f"LlamaFactory refuses these options: {error}") from error
    return Options(*made)


def plan_from_config(config: Path, overrides: list[str], **settings: Any) -> Plan:
    """Plan the check of exactly what a training run would read.

    Args:
        config: its YAML.
        overrides: `key=value`, as `llamafactory-cli train` takes them.
        **settings: fields of the plan that training has no say in.
    """
    given = _read_config(config, overrides)
    _require_known(given, config)
    if not given.get("dataset"):
        raise DataError(f'{config}: there is no "dataset" to check.')
    if given.get("stage", "sft") != "dpo":
        raise DataError(f'{config}: "stage" is {given.get("stage", "sft")}, and preference pairs need dpo.')
    found = find({"dataset_dir": "data"} | given, {name.partition("=")[0] for name in overrides}, Path("data"))
    given |= {"dataset": found[0], "dataset_dir": str(found[1])} if found else {}
    options = read_options(given)
    data = options.data
    if not isinstance(data.dataset_dir, str) or data.dataset_dir == "ONLINE" or ":" in data.dataset_dir[2:]:
        raise DataError(f"{config}: dataset_dir is {data.dataset_dir}; only a local folder can be checked.")
    folder, media = Path(data.dataset_dir), Path(data.media_dir)
    return Plan(
        [open_source(name, folder, media) for name in data.dataset],
        [open_source(name, folder, media) for name in data.eval_dataset or []],
        scored=_needs_scores(given),
        weighted=bool(given.get("pref_pair_weights")),
        max_pixels=options.model.image_max_pixels,
        min_pixels=options.model.image_min_pixels,
        shards=data.preprocessing_num_workers or 1,
        split=data.val_size > 0,
        training=options,
        **settings,
    )


def _needs_scores(given: dict[str, Any]) -> bool:
    from llamafactory.train.uni_dpo.objective.losses import LOSSES

    loss = LOSSES.get(str(given.get("pref_loss")))
    return (loss is not None and loss.scores) or bool(given.get("pref_margin_scale"))


def _require_known(given: dict[str, Any], config: Path) -> None:
    """Refuse options that LlamaFactory's parser does not know, and words where numbers belong."""
    import llamafactory.train.tuner  # noqa: F401  (it joins our options to the parser)
    from llamafactory.hparams import parser

    known = {option.name: option for group in parser._TRAIN_ARGS for option in fields(group)}
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            meant = f" Did you mean {near[0]}?" if near else ""
            raise DataError(f'{config}: training knows no option "{name}".{meant}')
        number = type(known[name].default)
        if number in (int, float) and isinstance(value, str):
            try:
                number(value)
            except ValueError as error:
                raise DataError(f"{config}: {name} must be a number, not {value!r}.") from error


def _read_config(config: Path, overrides: list[str]) -> dict[str, Any]:
    given, chosen = load_yaml(config), parse_options(overrides)
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.to_container(OmegaConf.merge(given, chosen), resolve=True)
    except OmegaConfBaseException as error:
        raise DataError(f"cannot read {config}: {error}") from error


def check_tokenized(options: Options, found: Findings) -> None:
    """Say that a run reads data that were tokenised before, and whether they are still those of its files."""
    folder = options.data.tokenized_path
    if folder and Path(folder).is_dir() and any(Path(folder).iterdir()):
        found.add("tokenized", 0, None, None, f"training reads {folder}, and none of the files that were checked here")
        from llamafactory.train.uni_dpo.caches.tokenized import _source_of, refuse_other_source
        from llamafactory.train.uni_dpo.errors import UniDPOError

        try:
            refuse_other_source(Path(folder), _source_of(options.model, options.data), options.data)
        except UniDPOError as error:
            found.add("tokenized-stale", 0, None, None, str(error))
