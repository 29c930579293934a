"""torch.hub entries of this repository; they live in `upstream/hubconf.py`."""

import sys
from pathlib import Path

# torch.hub takes the folder off the path again once the model is built; what is imported later needs it.
_ROOT = str(Path(__file__).resolve().parent)
if _ROOT not in sys.path:
    sys.path.append(_ROOT)

from distill.upstream.hubconf import (  # noqa: E402
    dependencies,
    robust_distilhubert_custom,
    robust_distilhubert_local,
    robust_distilhubert_url,
)

__all__ = [
    "dependencies",
    "robust_distilhubert_custom",
    "robust_distilhubert_local",
    "robust_distilhubert_url",
]
