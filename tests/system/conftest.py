"""One switch for all tests of a module that ask for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system.lab import Lab, labs


@pytest.fixture(scope="module")
def _lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """`FLAGS` of the module are the daemon's."""
    with labs(*getattr(request.module, "FLAGS", ())) as made:
        yield made


@pytest.fixture
def lab(_lab: Lab) -> Iterator[Lab]:
    """The module's switch. What a test has opened is closed, and nothing may have been complained about."""
    _lab.complaints()
    yield _lab
    _lab.close()
    assert _lab.complaints() == []
