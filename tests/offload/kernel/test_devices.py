"""Programs on devices, with and without what newer kernels have."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowshunt.offload.providers.kernel.devices import Ingress
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
up = kernel.devices.prepare_up_device()()
kernel.devices.attach(1, look_up("p0").ifindex, 1500, up)
print(filters(), end=" ")
kernel.set_options({"limit": "32"})
print(filters(), end=" ")
kernel.devices.detach(1)
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
ups = [kernel.devices.prepare_up_device()() for _ in range(2)]
ifindex = look_up("p0").ifindex
kernel.devices.attach(1, ifindex, 1500, ups[0])

def place():
    found = bpf.lookup(kernel.objects._ports, ifindex.to_bytes(4, "little"), 8)
    numbers = {up.ifindex: n for n, up in enumerate(ups)}
    return found and (found[0], numbers[int.from_bytes(found[4:], "little")])

try:
    kernel.devices.attach(1 << 16 | 2, ifindex, 1500, ups[1])
except OSError as problem:
    print(problem.strerror, end=" ")
print(place(), end=" ")
kernel.devices.detach(1)
kernel.devices.attach(1 << 16 | 2, ifindex, 1500, ups[1])
print(place(), end=" ")
kernel.devices.detach(1 << 16 | 2)
print(place())
"""

_PEERS = """
import sys
from flowshunt.offload.providers.kernel.provider import Kernel
from flowshunt.ports.devices import look_up

kernel = Kernel(limit=16)
kernel.init()
ifindex = look_up("p0").ifindex
kernel.devices.attach(1, ifindex, 1500, kernel.devices.prepare_up_device()())

def has_peer():
    kernel.devices.look_again(ifindex)
    print(kernel.devices.ports.attached[1].peer != 0, flush=True)
    sys.stdin.readline()

for _ in range(3):
    has_peer()
"""

_FRAMES = """
import subprocess
from flowshunt.offload.providers.kernel.frames import Features
from flowshunt.ports.devices import look_up, takes_tags_off

features = Features()
ifindex = look_up("p0").ifindex

def say():
    print(features.have_changed(), features.why_not(ifindex, is_attached=True)[:19], end="; ")

say()
subprocess.run(["ethtool", "-K", "p1", "gro", "on"], check=True)
say()
say()
print(features.why_not(look_up("lo").ifindex, is_attached=False), end="; ")
subprocess.run(["ethtool", "-K", "p0", "rxvlan", "off"], check=True)
print(takes_tags_off("p0"), takes_tags_off("p1"))
"""


_HITLESS = """
import os, sys
from flowshunt.offload.providers.kernel.links import pins_in
from flowshunt.offload.providers.kernel.provider import Kernel
from flowshunt.ports.devices import look_up

folder, mode = sys.argv[1:]
kernel = Kernel(limit=16)
kernel.set_options({"limit": "16", "pins": folder})
kernel.init()
kernel.devices.attach(1, look_up("p0").ifindex, 1500, kernel.devices.prepare_up_device()(), mode)
if mode == "xdp" and "the kernel does not" in kernel.notes[0]:
    raise SystemExit(print(kernel.notes[0]))

def say(is_hitless):
    kernel.set_options({"limit": "16", "pins": folder, "hitless": is_hitless})
    kernel.forget_others()
    links = sorted(os.path.basename(pin).partition("-")[0] for pin in pins_in(folder))
    print(*links, sum(name.startswith("maps-") for name in os.listdir(folder)), end="; ")

for is_hitless in ("false", "true", "false", "true"):
    say(is_hitless)
kernel.close()
print(pins_in(folder))
"""

_HALFWAY = """
import errno, os, sys
from flowshunt.base import bpf
from flowshunt.offload.providers.kernel.links import pins_in
from flowshunt.offload.providers.kernel.provider import Kernel
from flowshunt.ports.devices import look_up

folder, mode = sys.argv[1:]
kernel = Kernel(limit=16)
kernel.set_options({"limit": "16", "pins": folder})
kernel.init()
up = kernel.devices.prepare_up_device()()
for number, name in enumerate(("p0", "p1"), 1):
    kernel.devices.attach(number, look_up(name).ifindex, 1500, up, mode)
if mode == "xdp" and "the kernel does not" in kernel.notes[0]:
    raise SystemExit(print(kernel.notes[0]))

def program_at(link):
    with open(f"/proc/self/fdinfo/{link._link}", encoding="ascii") as file:
        return next(line for line in file if line.startswith("prog_id"))

def everything():
    ports = kernel.devices.ports.attached.values()
    links = [link for port in ports for link in (port.ingress, port.hook, port.up._discard) if link is not None]
    return kernel.options, kernel.objects, [program_at(link) for link in links], sorted(pins_in(folder)), kernel.notes

calls = dict.fromkeys(("create_map", "load_program", "update", "update_link", "pin"))

def failing(name, call):
    def wrapped(*arguments, **more):
        global left
        left -= 1
        if left == 0:
            raise OSError(errno.ENOSPC, "injected")
        return call(*arguments, **more)
    return wrapped

for name in calls:
    setattr(bpf, name, failing(name, getattr(bpf, name)))

for wanted in ({"hitless": "true"}, {"limit": "32", "hitless": "true"}, {"limit": "16"}):
    before = everything()
    for n in range(1, 100):
        left = n
        try:
            kernel.set_options({"limit": "16", "pins": folder} | wanted)
        except OSError as problem:
            assert "injected" in str(problem), problem
            assert everything() == before, (wanted, n, everything(), before)
        else:
            break
    left = -1
    after = everything()
    assert after[1] is not before[1] and set(after[2]).isdisjoint(before[2]), (wanted, before, after)
    kernel.forget_others()
    print(n > 10, len(after[3]), end="; ")
kernel.close()
print(pins_in(folder), [name for name in os.listdir(folder) if name.startswith("maps-")])
"""

_AGAIN = """
import threading
from flowshunt.daemon.preparing import Preparing
from flowshunt.offload.providers.kernel.provider import Kernel
from flowshunt.ports.devices import look_up

kernel = Kernel(limit=16)
kernel.init()
ifindex = look_up("p0").ifindex
preparing = Preparing(lambda: None)
for n in range(6):
    preparing.get(ifindex, lambda: kernel.devices.prepare(ifindex))
    if n % 2:
        preparing.wait()
    preparing.keep(())
    while (prepared := preparing.get(ifindex, lambda: kernel.devices.prepare(ifindex))) is None:
        preparing.wait()
    preparing.took(ifindex)
    prepared.close()
print("there")
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


@pytest.mark.skipif(shutil.which("ethtool") is None, reason="needs ethtool")
def test_the_kernel_says_which_devices_take_frames(namespace: str) -> None:
    for end in ("p0", "p1"):
        subprocess.run(["ip", "-n", namespace, "link", "set", end, "up"], check=True)
    done = subprocess.run(_inside(namespace, _FRAMES), env=_environment(), capture_output=True, text=True, check=False)
    if "the kernel does not" in done.stdout:
        pytest.skip("needs a kernel that says what devices can do at XDP (Linux 6.3)")
    said = "False its other end would; True ; False ; its driver has no XDP; False True"
    assert done.stdout.strip() == said, done.stderr


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


@pytest.mark.skipif(shutil.which("ethtool") is None, reason="needs ethtool")
@pytest.mark.parametrize(("mode", "links"), [("tc", "ingress"), ("xdp", "ingress xdp")])
def test_ports_that_are_there_follow_hitless(namespace: str, tmp_path: Path, mode: str, links: str) -> None:
    said = run_hitless(namespace, tmp_path, _HITLESS, mode)
    assert said == f"0; {links} 2; 0; {links} 2; []"


def run_hitless(namespace: str, folder: Path, script: str, mode: str) -> str:
    """What a script prints that is given a folder in a BPF file system, with both ends of the pair up."""
    if subprocess.run(["mount", "-t", "bpf", "bpf", str(folder)], check=False).returncode:
        pytest.skip("needs to mount a BPF file system")
    for end in ("p0", "p1"):
        subprocess.run(["ip", "-n", namespace, "link", "set", end, "up"], check=True)
        if mode == "xdp":
            subprocess.run(["ip", "netns", "exec", namespace, "ethtool", "-K", end, "gro", "on"], check=True)
    enter = ["nsenter", f"--net=/run/netns/{namespace}", sys.executable, "-c", script, str(folder), mode]
    try:
        done = subprocess.run(enter, env=_environment(), capture_output=True, text=True, check=False)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    if "needs tcx" in done.stderr:
        pytest.skip("needs a kernel with tcx (Linux 6.6)")
    if mode == "xdp" and "the kernel does not" in done.stdout:
        pytest.skip("needs a kernel that says what devices can do at XDP (Linux 6.3)")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("ethtool") is None, reason="needs ethtool")
@pytest.mark.parametrize(("mode", "n_links"), [("tc", 2), ("xdp", 4)])
def test_options_that_fail_halfway_change_nothing(namespace: str, tmp_path: Path, mode: str, n_links: int) -> None:
    said = run_hitless(namespace, tmp_path, _HALFWAY, mode)
    assert said == f"True {n_links}; True {n_links}; True 0; [] []"


def test_a_device_that_was_given_up_can_be_prepared_again_at_once(namespace: str) -> None:
    done = subprocess.run(_inside(namespace, _AGAIN), env=_environment(), capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "there", done.stderr


def test_links_may_go_in_many_threads() -> None:
    problems: list[BaseException] = []

    def close_many(first: int) -> None:
        for n in range(100):
            going = Ingress.__new__(Ingress)
            going.ifindex, going._pin, going._link = 1 << 20 | first | n % 50, None, os.open("/dev/null", os.O_RDONLY)
            try:
                going.close()
            except (KeyError, RuntimeError) as problem:
                problems.append(problem)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=close_many, args=(first << 8,)) for first in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert problems == []
