"""Three capabilities suffice, and the error names those that are missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.offload.kernel.rights import needs_bpf

pytestmark = [needs_bpf, pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (util-linux)")]

_SCRIPT = """
from flowshunt.offload.providers.kernel.provider import Kernel
try:
    Kernel(limit=16).init()
    print("loaded")
except OSError as problem:
    print(problem.strerror)
"""


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ("+bpf,+net_admin,+net_raw", "loaded"),
        ("+net_admin,+net_raw", "needs CAP_BPF"),
        ("+bpf", "needs CAP_NET_ADMIN, CAP_NET_RAW"),
    ],
)
def test_the_programs_load_with_as_much_as_is_needed(held: str, said: str) -> None:
    command = ["setpriv", "--inh-caps", f"-all,{held}", "--ambient-caps", f"-all,{held}", "--bounding-set"]
    done = subprocess.run(
        [*command, f"-all,{held}", sys.executable, "-c", _SCRIPT],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == said, done.stderr
