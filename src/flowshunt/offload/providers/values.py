"""Options of built-in providers as text: their names, and the values that they have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from flowshunt.base.errors import UsageError


def check_names(provider: str, options: Mapping[str, str], known: Sequence[str]) -> None:
    """Raise UsageError for an option that a provider does not have."""
    for name in options:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise UsageError(f"{provider} has no option {name!r}", hint=hint)


def number_of(provider: str, options: Mapping[str, str], name: str, default: int) -> int:
    """An option that is a number from 1 on, such as 30, 800k or 4M. Raises UsageError."""
    text = options.get(name)
    if text is None:
        return default
    scale = {"k": 1_000, "M": 1_000_000}.get(text[-1:], 1)
    digits = text[:-1] if scale > 1 else text
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 10 and 0 < int(digits) * scale < 1 << 31):
        raise UsageError(f"{provider}: {name} is {text!r}", hint="use a number from 1 on, such as 30, 800k or 4M")
    return int(digits) * scale


def truth_of(provider: str, options: Mapping[str, str], name: str, default: str = "false") -> bool:
    """An option that is true or false. Raises UsageError."""
    text = options.get(name, default)
    if text not in ("true", "false"):
        raise UsageError(f"{provider}: {name} is {text!r}", hint="use true or false")
    return text == "true"
