"""Fill the caches of a training configuration, and nothing else.

python -m llamafactory.train.uni_dpo.caches CONFIG.yaml [OPTION=VALUE ...]

CONFIG.yaml is what `llamafactory-cli train` takes; options given after it override it. It has to name
`uni_dpo_reference_cache`, `uni_dpo_image_cache`, or both. Run it again after an interruption: what is stored stays.
As `llamafactory-cli train`, it uses all GPUs that CUDA_VISIBLE_DEVICES shows; NPROC_PER_NODE says how many, and
torchrun --nproc_per_node GPUS -m llamafactory.train.uni_dpo.caches CONFIG.yaml does the same by hand.
"""

import os
import sys


def _start_all_ranks() -> None:
    """Become torchrun where LlamaFactory would start it, that is for several devices, unless it is running already."""
    from llamafactory.extras.misc import get_device_count, is_env_enabled

    devices = get_device_count()
    if "LOCAL_RANK" in os.environ or not (devices > 1 or is_env_enabled("FORCE_TORCHRUN")):
        return
    ranks = ["--standalone", f"--nproc_per_node={os.environ.get('NPROC_PER_NODE', max(devices, 1))}"]
    command = [sys.executable, "-m", "torch.distributed.run", *ranks, "-m", __spec__.parent, *sys.argv[1:]]
    os.execv(sys.executable, command)


def main() -> None:
    """Read a configuration as LlamaFactory does and stop before the first training step."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(__doc__.strip())
        sys.exit(0 if len(sys.argv) > 1 else 2)
    _start_all_ranks()
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
        if os.environ.get("RANK", "0") == "0":
            print("The caches are complete.")
    else:
        raise UniDPOError("Nothing was filled: the configuration has neither `do_train` nor `do_eval`.")


if __name__ == "__main__":
    main()
