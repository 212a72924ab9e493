"""The two families of exceptions.

`UsageError`: the caller did something wrong and can put it right. `InputError`: a file, a peer or a device misbehaved,
and the caller can only report it. Packages derive their own from these; a bad packet is neither, but a verdict and a
counter.
"""

from __future__ import annotations


class FlowshuntError(Exception):
    """What both families share: what was wrong, where, and what would be right.

    `where` names the place as the user knows it (`rules.flows:3:17`, `a.pcap at byte 24`); `hint` says what would be
    right, as a phrase. Both may be None.
    """

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        advice = f" ({self.hint})" if self.hint else ""
        return f"{place}{self.what}{advice}"


class UsageError(FlowshuntError):
    """You misused it: an argument, a rule, a setting, or an order of calls that cannot work."""


class InputError(FlowshuntError):
    """The other side misbehaved: a damaged file, a peer that breaks its protocol, a device that fails."""
