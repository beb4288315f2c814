"""DeepSpeed's processes on the CPU."""

import deepspeed
from deepspeed import ops


def connect_ranks() -> None:
    """Start DeepSpeed's view of torch's processes, before accelerate looks for it.

    With `use_cpu`, accelerate starts only torch's: DeepSpeed would see one process alone.

    DeepSpeed would also compile an operator of its own for sums over shared memory. The build of a process that is
    killed meanwhile leaves a lock behind, for which every later one waits for ever.
    """
    ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo")
