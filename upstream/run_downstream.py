r"""Stock `s3prl.run_downstream` with our upstream registered, on old and new torchaudio.

Example:
    python -m distill.upstream.run_downstream -m train -u robust_distilhubert_local -k runs/s4 \
        -d speech_commands -c ks.yaml -p result/s4_ks
"""

from __future__ import annotations

import sys

# At the top: a process that starts data workers by spawning imports this module again in each of them.
import distill.upstream.s3prl_compat  # noqa: F401
from distill.errors import UserError
from distill.upstream import register

_EXTRA = ("s3prl", "pandas", "tensorboardX", "catalyst", "editdistance")


def main() -> int:
    """Run s3prl's command; its options are s3prl's (`--help`).

    Returns:
        The exit code: 0, or 1 with one line on stderr for a mistake that we can name.
    """
    try:
        register()
        from s3prl import run_downstream

        run_downstream.main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        print(
            f"error: {error.name} is not installed: pip install 'robust-distilhubert[s3prl]'", file=sys.stderr
        )
        return 1
    except FileNotFoundError as error:
        if not str(error.filename).endswith("config.yaml"):
            raise
        print(
            f"error: {error.filename} does not exist, and s3prl's package brings no configurations: "
            "give one with -c",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
