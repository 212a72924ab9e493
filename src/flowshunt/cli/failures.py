"""Errors as the user sees them, and the exit status that goes with each."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from flowshunt.base.errors import UsageError

OK = 0
DAMAGED = 1
"""A capture was damaged, or something could not be written; what was done has been reported."""
WRONG_USAGE = 2
INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""
PIPE_CLOSED = 141
"""128 + SIGPIPE, as shells report it."""


def complain(message: str, hint: str | None = None) -> None:
    """Tell the user on standard error."""
    print(f"flowshunt: {message}", file=sys.stderr)
    if hint:
        print(f"  hint: {hint}", file=sys.stderr)


@contextmanager
def reported() -> Iterator[None]:
    """Turn what a user can cause into a message and SystemExit with the right status; bugs pass through.

    A reader of our output that goes away (`| head`) is no error worth a message.
    """
    try:
        yield
    except BrokenPipeError:
        give_up_stdout()
        raise SystemExit(PIPE_CLOSED) from None
    except KeyboardInterrupt:
        complain("interrupted")
        raise SystemExit(INTERRUPTED) from None
    except UsageError as error:
        complain(f"{error.where}: {error.what}" if error.where else error.what, error.hint)
        raise SystemExit(WRONG_USAGE) from None
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        complain(f"{place}{error.strerror or error}")
        raise SystemExit(WRONG_USAGE) from None


def give_up_stdout() -> None:
    """Where standard output cannot be written any more, keep the interpreter from failing once more at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)
