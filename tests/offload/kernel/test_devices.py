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
from flowshunt.base import bpf
from flowshunt.offload.providers.kernel.provider import Kernel
from flowshunt.ports.devices import look_up

def refuse(*arguments):
    raise OSError(errno.EINVAL, "no such type")

def filters():
    said = subprocess.run(["tc", "filter", "show", "dev", "p0", "ingress"], capture_output=True, text=True)
    return said.stdout.count("direct-action")

if sys.argv[1] == "clsact":
    bpf.link_ingress = refuse
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

_TWO_BRIDGES = """
from flowshunt.base import bpf
from flowshunt.offload.providers.kernel.provider import Kernel
from flowshunt.ports.devices import look_up

kernel = Kernel(limit=16)
kernel.init()
ups = [kernel.make_up_device() for _ in range(2)]
ifindex = look_up("p0").ifindex
kernel.attach(1, ifindex, 1500, ups[0])

def place():
    found = bpf.lookup(kernel.objects._ports, ifindex.to_bytes(4, "little"), 8)
    numbers = {up.ifindex: n for n, up in enumerate(ups)}
    return found and (found[0], numbers[int.from_bytes(found[4:], "little")])

try:
    kernel.attach(1 << 16 | 2, ifindex, 1500, ups[1])
except OSError as problem:
    print(problem.strerror, end=" ")
print(place(), end=" ")
kernel.detach(1)
kernel.attach(1 << 16 | 2, ifindex, 1500, ups[1])
print(place(), end=" ")
kernel.detach(1 << 16 | 2)
print(place())
"""

_PEERS = """
import sys
from flowshunt.offload.providers.kernel.provider import Kernel
from flowshunt.ports.devices import look_up

kernel = Kernel(limit=16)
kernel.init()
ifindex = look_up("p0").ifindex
kernel.attach(1, ifindex, 1500, kernel.make_up_device())

def has_peer():
    kernel.look_again(ifindex, kernel.peer_of(ifindex))
    print(kernel._ports.attached[1].peer != 0, flush=True)
    sys.stdin.readline()

for _ in range(3):
    has_peer()
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
        [*_inside(namespace, _SCRIPT), way],
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if way == "tcx" and done.stdout.startswith("1"):
        pytest.skip("needs a kernel with tcx (Linux 6.6)")
    assert done.stdout.strip() == filters, done.stderr


def _inside(namespace: str, script: str) -> list[str]:
    return ["ip", "netns", "exec", namespace, sys.executable, "-c", script]


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


def test_a_device_is_one_port_at_a_time(namespace: str) -> None:
    done = subprocess.run(
        _inside(namespace, _TWO_BRIDGES), env=_environment(), capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "the device is another port already (1, 0) (2, 1) None", done.stderr


def test_the_other_end_of_a_pair_may_come_and_go(namespace: str) -> None:
    other = f"{namespace}o"
    subprocess.run(["ip", "netns", "add", other], check=True)
    subprocess.run(["ip", "-n", namespace, "link", "set", "p0", "up"], check=True)
    try:
        with subprocess.Popen(
            _inside(namespace, _PEERS), env=_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as running:
            assert running.stdin is not None and running.stdout is not None
            said = []
            for move in (["-n", namespace, "link", "set", "p1", "netns", other],
                         ["-n", other, "link", "set", "p1", "netns", namespace], []):  # fmt: skip
                said.append(running.stdout.readline().strip())
                if move:
                    subprocess.run(["ip", *move], check=True)
                running.stdin.write("\n")
                running.stdin.flush()
            assert said == ["False", "True", "False"]
    finally:
        subprocess.run(["ip", "netns", "del", other], check=True)
