"""Whether programs can be loaded here."""

from __future__ import annotations

import pytest

from flowshunt.offload.providers.kernel.objects import Objects


def _why_not() -> str:
    try:
        Objects(1).close()
    except OSError as problem:
        return f"the provider kernel {problem.strerror}"
    return ""


WHY_NO_BPF = _why_not()
needs_bpf = pytest.mark.skipif(bool(WHY_NO_BPF), reason=WHY_NO_BPF or "none")
