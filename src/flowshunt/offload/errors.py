"""What goes wrong between the framework and a provider."""

from __future__ import annotations

import errno
import os

from flowshunt.base.errors import InputError, UsageError

MAX_ERRNO = 1023
"""The largest errno that is kept."""


class ProviderError(InputError):
    """A provider cannot do what it was asked: raised by a callback, kept as the operation's errno.

    `errno`: a number of the module errno. `reason`: a code of `flowshunt.offload.reasons` when one says it better
    (`table-full`), else the refusal is counted as `provider-refused:` with the name of the errno.
    """

    def __init__(self, error: int, what: str | None = None, *, reason: str | None = None) -> None:
        super().__init__(what or os.strerror(error))
        self.errno = error
        self.reason = reason


class RegistrationError(UsageError):
    """A provider was not registered; `errno` is EINVAL, EEXIST, or what its init() said."""

    def __init__(self, error: int, what: str, *, hint: str | None = None) -> None:
        super().__init__(what, hint=hint)
        self.errno = error


def errno_of(failure: BaseException) -> int:
    """The errno that an exception of a provider stands for: its own when it has a sane one, else EIO."""
    number = getattr(failure, "errno", None)
    return number if type(number) is int and 0 < number <= MAX_ERRNO else errno.EIO


def errno_name(number: int) -> str:
    """`ENOSPC` for 28, the digits for a number that has no name."""
    return errno.errorcode.get(number, str(number))
