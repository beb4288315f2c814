"""Fill the caches of a training configuration, and nothing else.

python -m llamafactory.train.uni_dpo.caches CONFIG.yaml [OPTION=VALUE ...]

CONFIG.yaml is what `llamafactory-cli train` takes; options given after it override it. It has to name
`uni_dpo_reference_cache`, `uni_dpo_image_cache`, or both. Run it again after an interruption: what is stored stays.
On several GPUs: torchrun --nproc_per_node GPUS -m llamafactory.train.uni_dpo.caches CONFIG.yaml
"""

import sys


def main() -> None:
    """Read a configuration as LlamaFactory does and stop before the first training step."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__.strip())
        sys.exit(0 if len(sys.argv) > 1 else 2)
    from llamafactory.hparams import get_train_args, read_args
    from llamafactory.train.dpo import run_dpo

    from ..errors import CachesFilled, UniDPOError

    *run, finetuning_args, _ = get_train_args(read_args())
    if not finetuning_args.uses_caches:  # so also in another stage
        raise UniDPOError("Nothing to fill: set `uni_dpo_reference_cache`, `uni_dpo_image_cache`, or both.")
    finetuning_args.stops_after_caches = True
    try:
        run_dpo(*run, finetuning_args)
    except CachesFilled:
        print("The caches are complete.")
    else:
        raise UniDPOError("Nothing was filled: the configuration has neither `do_train` nor `do_eval`.")


if __name__ == "__main__":
    main()
