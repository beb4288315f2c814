"""The one upstream file that the Uni-DPO overlay replaces.

It brings the names that upstream's brings and adds `UniDPOVLM`, also called `UniDPOQwen2VL`, from the
package `uni_dpo` next door. Upstream's `Qwen2VLChat` makes that class of checkpoints of our training.
"""

import sys

from . import model as _upstream
from .model import Qwen2VLChat
from .prompt import Qwen2VLPromptMixin
from .uni_dpo.model import UniDPOQwen2VL, UniDPOVLM
from .uni_dpo.published import lead_to_ours


__all__ = ["Qwen2VLChat", "Qwen2VLPromptMixin", "UniDPOQwen2VL", "UniDPOVLM"]

if hasattr(_upstream, "Qwen2VLChatAguvis"):  # VLMEvalKit has it since the summer of 2025
    from .model import Qwen2VLChatAguvis  # noqa: F401

    __all__.append("Qwen2VLChatAguvis")

# A "class" in a config file is looked up among the names of `vlmeval.vlm`, which is importing this package right now
# and lists its models by name.
_vlm = sys.modules[__package__.rpartition(".")[0]]
_vlm.UniDPOVLM = _vlm.UniDPOQwen2VL = UniDPOVLM
lead_to_ours(Qwen2VLChat, UniDPOVLM)
