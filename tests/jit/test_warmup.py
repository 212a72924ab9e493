"""Compiling ahead: what is missing is named, compiled once, and counted."""

from __future__ import annotations

import json
import textwrap

import pytest

pytestmark = pytest.mark.needs_jit

SCRIPT = """
    import json
    import numpy as np
    from flowshunt.jit import kernel, pending, warm_up

    @kernel(example=lambda: (np.zeros(1, np.int64),))
    def first(values):
        return values[0]

    @kernel(example=lambda: (np.zeros(1, np.uint8), 0))
    def second(values, n):
        return values[n]

    before = [entry.name for entry in pending()]
    reports = []
    compiled = warm_up(lambda *report: reports.append(report))
    print(json.dumps([before, reports, compiled, [entry.name for entry in pending()], warm_up()]))
"""


def test_what_is_missing_is_reported_one_by_one_and_compiled(run_python, tmp_path):
    script = ("-c", textwrap.dedent(SCRIPT))
    cache = {"FLOWSHUNT_CACHE_DIR": str(tmp_path / "cache")}
    names = ["__main__.first", "__main__.second"]
    cold = json.loads(run_python(*script, **cache).stdout)
    assert cold == [names, [["__main__.first", 0, 2], ["__main__.second", 1, 2]], 2, [], 0]
    warm = json.loads(run_python(*script, **cache).stdout)
    assert warm == [[], [], 0, [], 0]


def test_with_the_jit_off_nothing_is_missing(run_python):
    done = run_python("-c", textwrap.dedent(SCRIPT), NUMBA_DISABLE_JIT="1")
    assert json.loads(done.stdout) == [[], [], 0, [], 0]
