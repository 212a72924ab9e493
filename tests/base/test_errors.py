"""The two families say what, where, and what would be right."""

from __future__ import annotations

import pytest

from flowshunt.base.errors import FlowshuntError, InputError, UsageError


@pytest.mark.parametrize(
    ("where", "hint", "text"),
    [
        (None, None, "unknown port"),
        ("a.flows:3:17", None, "a.flows:3:17: unknown port"),
        (None, "add it first", "unknown port (add it first)"),
        ("a.flows:3:17", "add it first", "a.flows:3:17: unknown port (add it first)"),
    ],
)
@pytest.mark.parametrize("family", [UsageError, InputError])
def test_an_error_reads_as_place_fault_and_advice(family, where, hint, text):
    error = family("unknown port", where=where, hint=hint)
    assert str(error) == text
    assert (error.what, error.where, error.hint) == ("unknown port", where, hint)


def test_the_families_are_told_apart():
    assert issubclass(UsageError, FlowshuntError)
    assert issubclass(InputError, FlowshuntError)
    assert not issubclass(UsageError, InputError)
    assert not issubclass(InputError, UsageError)
