"""Settings of a training run: YAML files and `key=value`, read with the library that LlamaFactory reads them with."""

from pathlib import Path
from typing import Any

from .errors import DataError


LARGEST = 1_000_000  # bytes of a YAML file
DEEPEST = 100  # levels: tens of thousands would end this process inside the library, without a message


def load_yaml(path: Path) -> dict[str, Any]:
    """Read LlamaFactory's options from a file."""
    from omegaconf import OmegaConf

    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it has more than {LARGEST:,} bytes")
        _refuse_deep(path)
        settings = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # a missing file, or any of YAML's complaints
        raise DataError(f"cannot read the settings in {path}: {error}") from error
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise DataError(f"{path} must hold options of LlamaFactory, as name: value")
    return settings


def _refuse_deep(path: Path) -> None:
    import yaml

    depth = 0
    with path.open(encoding="utf-8") as file:
        for event in yaml.parse(file, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise ValueError(f"it is more than {DEEPEST} levels deep")


def parse_options(options: list[str]) -> dict[str, Any]:
    """Read `key=value` as LlamaFactory does."""
    from omegaconf import OmegaConf

    try:
        return OmegaConf.to_container(OmegaConf.from_cli(options))
    except Exception as error:  # YAML's complaints about a value
        raise DataError(f"cannot read the arguments {' '.join(options)}: {error}") from error
