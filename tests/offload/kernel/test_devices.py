"""Programs on devices, with and without what newer kernels have."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.offload.kernel.rights import needs_bpf

pytestmark = [
    needs_bpf,
    pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="needs /dev/net/tun"),
    pytest.mark.skipif(not (shutil.which("ip") and shutil.which("tc")), reason="needs ip and tc (iproute2)"),
]

_SCRIPT = """
import errno, subprocess, sys
from flowshunt.offload.providers.kernel import syscall
from flowshunt.offload.providers.kernel.provider import Kernel
from flowshunt.ports.devices import look_up

def refuse(*arguments):
    raise OSError(errno.EINVAL, "no such type")

def filters():
    said = subprocess.run(["tc", "filter", "show", "dev", "p0", "ingress"], capture_output=True, text=True)
    return said.stdout.count("direct-action")

if sys.argv[1] == "clsact":
    syscall.link_ingress = refuse
kernel = Kernel(limit=16)
kernel.init()
up = kernel.make_up_device()
kernel.attach(1, look_up("p0").ifindex, 1500, up)
print(filters(), end=" ")
kernel.set_options({"limit": "32"})
print(filters(), end=" ")
kernel.detach(1)
up.close()
kernel.close()
print(filters())
"""


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"fs{os.getpid()}devices"
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-n", name, "link", "add", "p0", "type", "veth", "peer", "name", "p1"], check=True)
    yield name
    subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.mark.parametrize(("way", "filters"), [("tcx", "0 0 0"), ("clsact", "1 1 0")])
def test_programs_come_and_go_with_the_port(namespace: str, way: str, filters: str) -> None:
    done = subprocess.run(
        ["ip", "netns", "exec", namespace, sys.executable, "-c", _SCRIPT, way],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    if way == "tcx" and done.stdout.startswith("1"):
        pytest.skip("needs a kernel with tcx (Linux 6.6)")
    assert done.stdout.strip() == filters, done.stderr
