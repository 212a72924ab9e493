"""Commands about what this switch does not have: the words of ovs-vswitchd 3.1 with nothing to do."""

from __future__ import annotations

from pathlib import Path

from tests.control.unixctl.appctl import Lab, needs_appctl, run

pytestmark = needs_appctl

SAYS = {
    "autoattach/show-isid br0": "",
    "autoattach/statistics": "",
    "bfd/set-forwarding true": "OK\n",
    "bfd/show": "",
    "bond/hash 00:00:00:00:00:01": "68\n",
    "bond/hash 00:00:00:00:00:01 5 3": "219\n",
    "cfm/set-fault normal": "OK\n",
    "dpctl/cache-get-size": "netdev@ovs-netdev:\n",
    "dpctl/parse-actions 1,2": "1,2\n",
    "dpctl/parse-actions push_vlan(vid=5,pcp=0),2": "push_vlan(vid=5,pcp=0),2\n",
    "dpctl/ct-bkts": "Total Buckets: 1\nCurrent Connections: 0\n\n",
    "dpif-netdev/dpif-impl-get": "Available DPIF implementations:\n  dpif_scalar (pmds: none)\n",
    "dpif-netdev/dpif-impl-set dpif_scalar": "DPIF implementation set to dpif_scalar.\n",
    "dpif-netdev/miniflow-parser-set -pmd 3 scalar": "Miniflow extract implementation set to scalar.\n",
    "dpif-netdev/pmd-perf-show": "",
    "dpif-netdev/subtable-lookup-prio-set generic 5": (
        "Lookup priority change affected 0 dpcls ports and 0 subtables.\n"
    ),
    "dpif/set-dp-features br0 ct_state": "ct_state (CT state) : [run time]:true, [boot time]:true\n",
    "netdev-dummy/conn-state p1": "p1: unknown\n",
    "netdev-dummy/ip4addr p1 10.0.0.1/24": "OK\n",
    "netdev-dummy/ip6addr p1 fe80::1": "OK\n",
    "odp-execute/action-impl-set scalar": "Action implementation set to scalar.\n",
    "rstp/show": "",
    "rstp/tcn": "OK\n",
    "stp/tcn": "OK\n",
    "tnl/arp/aging": "900\n",
    "tnl/neigh/aging 500": "OK\n",
    "tnl/neigh/aging": "500\n",
    "tnl/egress_port_range": "Tunnel UDP source port range: 32768-61000\n",
    "tnl/egress_port_range 20 10": "OK\n",
    "tnl/egress_port_range 5": "Tunnel UDP source port range: 10-20\n",
    "qos/show p1": "QoS not configured on p1\n",
}
REFUSES = {
    "bfd/set-forwarding p1 true": "no such BFD object",
    "bfd/set-forwarding p1 bla": "unknown fault string",
    "bfd/show p1": "no such bfd object",
    "bond/enable-member b m": "no such bond",
    "bond/hash zz": "invalid mac",
    "bond/migrate b 5 m": "no such bond",
    "cfm/set-fault p1 true": "no such CFM object",
    "dpctl/add-flow netdev@ovs-netdev in_port(1) 2": "ovs-vswitchd: updating flow table (Operation not supported)",
    "dpctl/add-if ovs-dummy x": "ovs-vswitchd: opening datapath (Invalid argument)",
    "dpctl/cache-set-size netdev@ovs-netdev a 5": (
        "ovs-vswitchd: Setting caches not supported (Operation not supported)"
    ),
    "dpctl/del-flow in_port(1)": (
        "ovs-vswitchd: deleting flow (No such file or directory)\nPerhaps you need to specify a UFID?"
    ),
    "dpctl/del-if netdev@ovs-netdev x": "ovs-vswitchd: no port named x",
    "dpctl/get-flow ufid:bla": "ovs-vswitchd: parsing flow ufid (Invalid argument)",
    "dpctl/get-flow ufid:00000000-0000-0000-0000-000000000000": (
        "ovs-vswitchd: getting flow (No such file or directory)"
    ),
    "dpctl/parse-actions bla": "ovs-vswitchd: odp_actions_from_string (Invalid argument)",
    "dpif-netdev/dpif-impl-set foo": "DPIF implementation not available: Unknown DPIF implementation foo.",
    "dpif-netdev/subtable-lookup-prio-set foo 5": "error, subtable lookup function not found",
    "dpif/set-dp-features nobr": "no such bridge",
    "dpif/set-dp-features br0 bla": "Unexpected support field",
    "lacp/show x": "no such lacp object",
    "mdb/show br0": "multicast snooping is disabled",
    "netdev-dummy/ip4addr p1 bla": "bla: invalid IP address",
    "netdev-dummy/ip4addr nop 10.0.0.1/24": "Unknown Dummy Interface",
    "netdev-dummy/ip6addr p1 10.0.0.1": "10.0.0.1: invalid IPv6 address",
    "odp-execute/action-impl-set foo": "Error: unknown action implementation, foo, specified!",
    "ovs/route/add 10.0.0.0/24 br0": "Error while inserting route.",
    "ovs/route/add bla br0": "Invalid parameters",
    "ovs/route/lookup 10.0.0.1": "Not found",
    "qos/show nop": "no such interface",
    "rstp/tcn br0": "No such RSTP object",
    "stp/show br0": "no such stp object",
    "tnl/arp/aging 3601": "bad aging value",
    "tnl/neigh/set br0 bla 00:00:00:00:00:01": "bad IP address",
    "tnl/egress_port_range a b": "Invalid min.",
}


def test_commands_answer_as_a_switch_with_nothing_to_do(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        await lab.add_bridge("br0", "p1")
        for words, text in SAYS.items():
            assert await lab.says(*words.split()) == text, words
        for words, text in REFUSES.items():
            assert await lab.refuses(*words.split()) == text, words

    run(tmp_path, work)


def test_neighbours_are_kept_and_forgotten(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        head = await lab.says("tnl/arp/show")
        assert await lab.says("tnl/arp/set", "br0", "10.0.0.1", "00:00:00:00:00:1") == "OK\n"
        row = f"{'10.0.0.1':<45} 00:00:00:00:00:01   br0\n"
        assert await lab.says("tnl/neigh/show") == head + row
        assert await lab.says("tnl/neigh/flush") == "OK\n"
        assert await lab.says("tnl/arp/show") == head

    run(tmp_path, work)


def test_every_command_of_open_vswitch_is_there(tmp_path: Path) -> None:
    names = {words.split()[0] for words in (*SAYS, *REFUSES)}

    async def work(lab: Lab) -> None:
        listed = {line.split()[0] for line in (await lab.says("list-commands")).splitlines()[1:]}
        assert names <= listed
        of_dpctl = {line.split()[0] for line in (await lab.says("dpctl/list-commands")).splitlines()[1:]}
        assert of_dpctl == {name for name in listed if name.startswith("dpctl/")}

    run(tmp_path, work)
