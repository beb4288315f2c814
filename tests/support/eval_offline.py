"""Start VLMEvalKit with its check of downloads off, so that local rows under a benchmark's name are taken as they are.

`python tests/support/eval_offline.py MODULE_OR_SCRIPT [ARGUMENT ...]`
"""

import runpy
import sys

import vlmeval.dataset


for kind in vlmeval.dataset.DATASET_CLASSES:
    kind.DATASET_MD5 = {}

if __name__ == "__main__":
    del sys.argv[0]
    start = runpy.run_path if sys.argv[0].endswith(".py") else runpy.run_module
    start(sys.argv[0], run_name="__main__", **({} if sys.argv[0].endswith(".py") else {"alter_sys": True}))
