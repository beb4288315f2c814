"""VLMEvalKit's command line, except that files in LMUData are taken as they are.

A file with a real name and other rows than the published ones would be downloaded again.
"""

import vlmeval.dataset
import vlmeval.run


if __name__ == "__main__":
    for dataset_class in vlmeval.dataset.DATASET_CLASSES:
        dataset_class.DATASET_MD5 = {}
    vlmeval.run.main()
