"""The student as an upstream of s3prl: expert, torch.hub entries, registration, s3prl on new torchaudio."""

from __future__ import annotations


def register() -> None:
    """Put our entries into `s3prl.hub`, and with it into `S3PRLUpstream` and `s3prl.run_downstream`.

    Afterwards `S3PRLUpstream("robust_distilhubert_local", path)` works, and the runner's
    `-u robust_distilhubert_local -k path`. No file of s3prl is edited; what this torchaudio lacks is supplied
    first (`distill.upstream.s3prl_compat`). A second call changes nothing.

    Raises:
        UserError: if s3prl is not installed.
    """
    import distill.upstream.s3prl_compat  # noqa: F401  before s3prl
    from distill.errors import UserError
    from distill.upstream import hubconf

    try:
        from s3prl import hub
    except ModuleNotFoundError as error:
        if error.name != "s3prl":
            raise
        raise UserError("s3prl is not installed: pip install 'robust-distilhubert[s3prl]'") from error
    for name in hubconf.ENTRIES:
        setattr(hub, name, getattr(hubconf, name))
