"""Two hundred devices become ports in one transaction, while two hosts talk to each other."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.system.network import START_S, needs, networks, poll

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
N = 200
FLAGS = ("--detach", "--no-chdir", "--pidfile", "--log-file")


@needs("ping", "ovsdb-tool", "ovsdb-server", "ovs-vsctl", "ovs-appctl")
def test_two_hundred_ports_come_and_go_at_once(tmp_path: Path) -> None:
    places = dict.fromkeys(("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"), str(tmp_path))
    path = os.pathsep.join(path for path in sys.path if path)
    environment = os.environ | places | {"OVS_SYSLOG_METHOD": "null", "PYTHONPATH": path}
    with networks() as network:

        def run(*words: str, timeout: float = 120) -> str:
            return network.run("switch", *words, env=environment, cwd=tmp_path, timeout=timeout)

        for host in (1, 2):
            network.host(f"h{host}", f"10.0.0.{host}/24")
        batch = tmp_path / "links"
        batch.write_text("".join(f"link add v{n} type veth peer name w{n}\nlink set v{n} up\n" for n in range(N)))
        run("ip", "-b", str(batch))
        run("ovsdb-tool", "create", "conf.db", str(SCHEMA))
        run("ovsdb-server", "-vconsole:off", "conf.db", f"--remote=punix:{tmp_path}/db.sock", *FLAGS)
        run("ovs-vsctl", "--no-wait", "init")
        run(sys.executable, "-m", "flowshunt", "vswitchd", *FLAGS, timeout=START_S)
        try:
            bridge = "add-br br0 -- set bridge br0 datapath_type=netdev -- add-port br0 h1 -- add-port br0 h2"
            run("ovs-vsctl", "--timeout=60", *bridge.split())
            network.ping("h1", "10.0.0.2")
            talking = network.start("h1", "ping", "-n", "-i", "0.05", "10.0.0.2")
            adding = [word for n in range(N) for word in ("--", "add-port", "br0", f"v{n}")]
            run("ovs-vsctl", "--timeout=60", *adding[1:])
            numbers = run("ovs-vsctl", "--bare", "--columns=ofport", "list", "interface").split()
            assert len({number for number in numbers if int(number) > 0}) == N + 3
            assert len(run("ovs-appctl", "dpctl/show").split("port ")) >= N
            deleting = [word for n in range(N) for word in ("--", "del-port", "br0", f"v{n}")]
            run("ovs-vsctl", "--timeout=60", *deleting[1:])
            poll(lambda: "promiscuity 1 " not in run("ip", "-d", "link", "show", "v7"))
            network.ping("h1", "10.0.0.2")
            talking.terminate()
        finally:
            run("ovs-appctl", "exit", "--cleanup")
            run("ovs-appctl", "-t", f"{tmp_path}/ovsdb-server.{_pid(tmp_path)}.ctl", "exit")


def _pid(directory: Path) -> str:
    return (directory / "ovsdb-server.pid").read_text().strip()
