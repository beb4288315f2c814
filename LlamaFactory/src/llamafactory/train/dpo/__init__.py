# Copyright 2026 the Uni-DPO overlay authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""The one upstream file that the Uni-DPO overlay replaces.

Every way into LlamaFactory (its command line, `src/train.py`, torchrun and ray workers, the web UI's process) imports
this module before it parses arguments, so this is where the options join the parser. Everything else is next door in
`llamafactory.train.uni_dpo` and acts only on runs that ask for it. Where that cannot be imported, because this
LlamaFactory or its transformers is too old or too new for it, only those runs are refused.
"""

try:
    from ..uni_dpo.models.exports import mend_exports
    from ..uni_dpo.options.arguments import register_arguments
    from ..uni_dpo.options.types import explain_failures
    from ..uni_dpo.workflow import run_dpo

    register_arguments()
    explain_failures()
    mend_exports()
except Exception as error:  # whatever it is, other runs have nothing to do with it
    from ..uni_dpo.upstream.versions import refuse_incompatible
    from .workflow import run_dpo

    run_dpo = refuse_incompatible(run_dpo, error)

__all__ = ["run_dpo"]
