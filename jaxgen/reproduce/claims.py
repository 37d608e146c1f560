"""The claims, by name."""

from __future__ import annotations

from jaxgen.reproduce import (
    ddt_decoupling,
    ddt_encoder_depth,
    economic_dispatch,
    mdsl,
    mdsl_generative,
    mup_proxy_beats_baseline,
    mup_transfer,
    repa,
)
from jaxgen.reproduce.claim import Claim

_MODULES = (
    mup_transfer,
    mup_proxy_beats_baseline,
    repa,
    ddt_decoupling,
    ddt_encoder_depth,
    mdsl,
    mdsl_generative,
    economic_dispatch,
)
CLAIMS: dict[str, Claim] = {module.CLAIM.name: module.CLAIM for module in _MODULES}
