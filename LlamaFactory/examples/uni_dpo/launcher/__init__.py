"""The parts of launch.py: settings, machine, checks, output folder, and the training process."""

import sys
from pathlib import Path


EXAMPLES = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(EXAMPLES.parent.parent / "scripts" / "uni_dpo"))  # pair_data: errors, files, dataset_info.json
