"""The published pairs, from a download to a data set that the example script trains on."""

import json
from pathlib import Path

from ..errors import DataError
from ..paths import look_at_paths, print_report, rewrite_paths
from ..register import register
from ..sources import open_source
from ..writing import keeping_original


NAME = "uni_dpo_mm_rlhf"  # in the example's YAML
# Beside this script in the repository and in a checkout of LlamaFactory: where the example looks by itself.
USUAL = Path(__file__).resolve().parents[4] / "data" / "uni_dpo"


def make_ready(downloaded: Path, pairs: Path) -> None:
    """Write the pairs with the paths of this machine and describe them, beside the folder of their images.

    Args:
        downloaded: the file as it is published.
        pairs: what training reads. If it is there it is kept, perhaps corrected by hand, but for its paths.

    Raises:
        DataError: the file is not what it should be, or another data set has its name.
    """
    folder = pairs.parent
    if not pairs.exists():
        print_report(rewrite_paths(open_source(str(downloaded)), pairs, folder), pairs)
    elif look_at_paths(open_source(str(pairs)), folder).rewritten:
        with keeping_original(pairs) as original:
            report = rewrite_paths(open_source(str(pairs)), pairs, folder)
        print_report(report, pairs)
        print(f"As it was: {original}")
    if not _is_described(pairs):
        register(NAME, pairs, folder)
    where = "" if folder.resolve() == USUAL else f"DATASET_DIR='{folder.resolve()}' "
    print(f'Data set "{NAME}" is ready in {folder}. Train it: {where}bash examples/uni_dpo/Qwen2_VL_2B_uni_dpo.sh')


def _is_described(pairs: Path) -> bool:
    """Tell whether the name stands for this file already, whatever else its entry says."""
    info = pairs.parent / "dataset_info.json"
    try:
        entry = json.loads(info.read_text(encoding="utf-8"))[NAME]
    except (OSError, ValueError, KeyError, TypeError):
        return False  # `register` says what is wrong with it
    if not isinstance(entry, dict) or entry.get("file_name") != pairs.name:
        raise DataError(f'{info} has another "{NAME}": {json.dumps(entry)}. Rename it, or choose --to.')
    return True
