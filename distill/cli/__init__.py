"""The `distill` command: its verbs, their parser and what they do."""

from __future__ import annotations

import errno
import logging
import re
import signal
import sys
import traceback
from collections.abc import Sequence

from distill.cli.output import PlainFormatter, plain_line, plain_streams
from distill.cli.parser import build_parser, parse
from distill.cli.threads import share_cores
from distill.errors import MissingSource, UserError, without_traceback
from distill.processes import is_first_process, message_prefix

CONNECTION_LOST = re.compile(
    r"Connection (closed|reset) by (remote )?peer|writev: Broken pipe|Connection was likely closed"
    r"|failed to recv, got 0 bytes|ncclRemoteError|remote process (has )?exit"
    r"|waiting for clients|client socket has timed out|wait timeout after",  # it never connected
    re.IGNORECASE,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns its exit code: 0, 1 (failed), 2 (usage), 130 (Ctrl-C), 143 (SIGTERM)."""
    with plain_streams():
        handler = logging.StreamHandler()
        handler.setLevel(logging.WARNING)  # of the handler, since libraries set the levels of their loggers
        handler.setFormatter(PlainFormatter("%(levelname)s %(message)s"))
        logging.basicConfig(handlers=[handler])
        return _run(argv)


def _run(argv: Sequence[str] | None) -> int:
    """`main`, with streams and logs that no name can break."""
    parser = build_parser()
    options = parse(parser, sys.argv[1:] if argv is None else argv)
    if options.run is None:
        parser.print_help()
        return 2
    quiet_libraries()
    share_cores()
    try:
        options.run(options)
    except UserError as error:
        if isinstance(error, MissingSource) and error.path is not None:
            from distill.data_prep.advice import how_to_make

            error.advice = how_to_make(error.path)
        if not (error.joint and not is_first_process()):
            print(f"distill: {message_prefix()}{one_line(error)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("distill: stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return 0
    except OSError as error:
        if not is_about_a_path(error):
            raise
        print(f"distill: {message_prefix()}{one_line(error)}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        if not is_about_another_process(error):
            raise
        print(
            f"distill: {message_prefix()}another process ended: see its message, above or in its own log; "
            "then continue from the last checkpoint with --resume",
            file=sys.stderr,
        )
        return 1
    return 0


def is_about_a_path(error: OSError) -> bool:
    """Whether a disk is full or a path cannot be written: a traceback would not help then."""
    if error.errno == errno.ENOENT:  # as for /proc/x, which cannot be made
        return traceback.extract_tb(error.__traceback__)[-1].name == "mkdir"
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    forbidden = (errno.EROFS, errno.EACCES, errno.EPERM)
    another_kind = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP)
    return error.errno in (*full, *forbidden, *another_kind)


def is_about_another_process(error: RuntimeError) -> bool:
    """Whether gloo, NCCL or torch's store say that the connection to another process is gone."""
    return bool(CONNECTION_LOST.search(str(error)))


def one_line(error: BaseException) -> str:
    """The message alone: an error that crossed from a data worker carries that worker's traceback."""
    return plain_line(without_traceback(str(error)) or type(error).__name__)


def quiet_libraries() -> None:
    """Suppress warnings of libraries that are not for our users."""
    import warnings

    warnings.filterwarnings(
        "ignore", module=r"pytorch_lightning|lightning_fabric|torch\.|lhotse|wandb|tensorboard"
    )
