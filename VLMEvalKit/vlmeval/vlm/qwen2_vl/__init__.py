"""The one upstream file that the Uni-DPO overlay replaces.

It brings the names that upstream's brings and adds `UniDPOQwen2VL`, from the package `uni_dpo` next door. Upstream's
`Qwen2VLChat` makes that class of checkpoints of our training.
"""

import sys

from . import model as _upstream
from .model import Qwen2VLChat
from .prompt import Qwen2VLPromptMixin
from .uni_dpo.model import UniDPOQwen2VL
from .uni_dpo.published import lead_to_ours


__all__ = ["Qwen2VLChat", "Qwen2VLPromptMixin", "UniDPOQwen2VL"]

if hasattr(_upstream, "Qwen2VLChatAguvis"):  # VLMEvalKit has it since the summer of 2025
    from .model import Qwen2VLChatAguvis  # noqa: F401

    __all__.append("Qwen2VLChatAguvis")

# A "class" in a config file is looked up among the names of `vlmeval.vlm`, which is importing this package right now
# and lists its models by name.
sys.modules[__package__.rpartition(".")[0]].UniDPOQwen2VL = UniDPOQwen2VL
lead_to_ours(Qwen2VLChat, UniDPOQwen2VL)
