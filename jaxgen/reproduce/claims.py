"""The claims, by name."""

from __future__ import annotations

from jaxgen.reproduce import mup_proxy_beats_baseline, mup_transfer
from jaxgen.reproduce.claim import Claim

CLAIMS: dict[str, Claim] = {module.CLAIM.name: module.CLAIM for module in (mup_transfer, mup_proxy_beats_baseline)}
