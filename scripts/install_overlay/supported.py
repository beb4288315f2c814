"""The versions that the overlays support, read out of their own statements without importing them."""

import ast
from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]

# For each overlay the file that states its versions as `SUPPORTED`.
STATED = {
    "llamafactory": ROOT / "LlamaFactory" / "src" / "llamafactory" / "train" / "uni_dpo" / "upstream" / "versions.py",
    "vlmeval": ROOT / "VLMEvalKit" / "vlmeval" / "vlm" / "qwen2_vl" / "uni_dpo" / "versions.py",
}


def supported(overlay: str) -> dict[str, str]:
    """Return what an overlay supports: names of packages to ranges of versions, as pip writes them.

    Args:
        overlay: A key of `STATED`.
    """
    for node in ast.parse(STATED[overlay].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "SUPPORTED":
            return ast.literal_eval(node.value)
    raise LookupError(f"{STATED[overlay]} states no SUPPORTED")


def oldest(overlay: str) -> str:
    """Return the oldest version of upstream itself that an overlay supports."""
    return supported(overlay)[overlay].removeprefix(">=").partition(",")[0]
