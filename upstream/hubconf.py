"""torch.hub entries: `torch.hub.load(FOLDER, "robust_distilhubert_local", ckpt=PATH, source="local")`.

FOLDER is the repository, or this folder in it; s3prl is not needed. Like s3prl's own entries, these take and
ignore further keywords (`model_config`, ...).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill.upstream.expert import UpstreamExpert

dependencies = ["torch", "safetensors"]
ENTRIES = ("robust_distilhubert_local", "robust_distilhubert_url", "robust_distilhubert_custom")

# torch.hub runs this file under another name. In a clone that is not installed, Python must be told where the
# package is; last, so that an installed copy comes first.
_ROOT = Path(__file__).resolve().parents[1]
if __name__ != "distill.upstream.hubconf" and (_ROOT / "distill").is_dir():
    sys.path.append(str(_ROOT))


def robust_distilhubert_local(ckpt: str | Path | None = None, **kwargs: Any) -> UpstreamExpert:
    """A student or a teacher as s3prl's upstream, without prediction heads.

    Args:
        ckpt: whatever `distill.load_student` or `distill.load_teacher` reads: a run folder,
            `student.safetensors` with its .json, a Hugging Face folder or hub id, a fairseq .pt, ...
        **kwargs: ignored.

    Raises:
        CheckpointError: saying what was found and what was expected.
    """
    from distill.upstream.expert import UpstreamExpert

    return UpstreamExpert(_given(ckpt), **kwargs)


def robust_distilhubert_url(ckpt: str | None = None, refresh: bool = False, **kwargs: Any) -> UpstreamExpert:
    """As `robust_distilhubert_local`, of a file that is downloaded once, into `torch.hub.get_dir()`.

    Args:
        ckpt: the URL of a file. Of `student.safetensors` the `student.json` next to it is fetched as well.
        refresh: download again.
        **kwargs: ignored.

    Raises:
        CheckpointError: if it cannot be downloaded, or as `robust_distilhubert_local`.
    """
    from distill.upstream.download import download

    return robust_distilhubert_local(download(str(_given(ckpt)), refresh=refresh), **kwargs)


def robust_distilhubert_custom(
    ckpt: str | Path | None = None, refresh: bool = False, **kwargs: Any
) -> UpstreamExpert:
    """`robust_distilhubert_url` for a URL, `robust_distilhubert_local` for anything else.

    Args:
        ckpt: a path, a hub id or a URL.
        refresh: download again.
        **kwargs: ignored.

    Raises:
        CheckpointError: as those two.
    """
    if "://" in str(ckpt):
        return robust_distilhubert_url(str(ckpt), refresh=refresh, **kwargs)
    return robust_distilhubert_local(ckpt, **kwargs)


def _given(ckpt: str | Path | None) -> str | Path:
    from distill.errors import CheckpointError

    if ckpt is None:
        raise CheckpointError(
            "robust_distilhubert needs a checkpoint: ckpt=PATH, S3PRLUpstream(name, PATH), or -k PATH for "
            "run_downstream"
        )
    return ckpt
