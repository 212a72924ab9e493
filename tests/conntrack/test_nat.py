"""NAT in the tracker alone: which reply tuples connections get, when there are none left, and what is counted."""

from __future__ import annotations

import random
from collections import Counter
from ipaddress import IPv4Address, IPv6Address, ip_address

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.traffic import frames
from flowshunt.conntrack.connection import Connection, Tuple
from flowshunt.conntrack.kernels.nat_choice import MAX_ADDRESSES_TRIED
from flowshunt.conntrack.nat import Nat, NatUsage
from flowshunt.conntrack.schema import N_GAUGES
from flowshunt.conntrack.states import ct_state_text
from flowshunt.conntrack.table import Tracker
from tests.builders import Packet, batch_of

SERVER = "198.51.100.1"
OUTSIDE = IPv4Address("192.0.2.1")
START_MS = 1_700_000_000_000
UDP, ICMP = 17, 1
UDP_TIMEOUT_MS = 60_000
REFUSED = "inv|trk"


def make_tracker(**options: object) -> Tracker:
    return Tracker(**{"max_connections": 4096, "seed": 5, **options})  # type: ignore[arg-type]


def udp(client: int | str, port: int, server: str = SERVER, server_port: int = 53) -> Packet:
    source = str(IPv4Address(0x0A000000 + client)) if isinstance(client, int) else client
    return Packet().eth().ipv4(source, server).udp(port, server_port)


def echo(client: int, id: int) -> Packet:
    return Packet().eth().ipv4(str(IPv4Address(0x0A000000 + client)), SERVER).icmp(8, id=id)


def send(
    tracker: Tracker, *packets: Packet, nat: Nat | None, at_ms: int = START_MS, zone: int = 0, commit: bool = True,
    force: bool = False,
) -> list[str]:  # fmt: skip
    batch = batch_of(packets, time_ns=at_ms * 1_000_000, step_ns=0)
    return [ct_state_text(int(state)) for state in tracker.track(batch, zone, commit=commit, nat=nat, force=force)]


def answer(connection: Connection) -> Packet:
    """A datagram that belongs to the reply direction."""
    way = connection.reply
    return Packet().eth().ipv4(str(way.source), str(way.destination)).udp(way.source_port, way.destination_port)


def translated(tracker: Tracker) -> list[tuple[str, int]]:
    return [(str(c.reply.destination), c.reply.destination_port) for c in tracker.connections()]


def assert_reply_tuples_differ(tracker: Tracker, now_ms: int) -> None:
    """No two living connections of a zone have a reply tuple in common, and each is found by both of its tuples."""
    connections = list(tracker.connections(now_ms))
    replies = Counter((c.zone, c.protocol, c.reply) for c in connections)
    assert not [reply for reply, n in replies.items() if n > 1]
    for connection in connections:
        for way in (connection.original, connection.reply):
            found = tracker.find(way, connection.protocol, connection.zone)
            assert found is not None and found.id == connection.id


def test_source_nat_changes_where_replies_go() -> None:
    tracker = make_tracker()
    nat = Nat("src", OUTSIDE)
    assert send(tracker, udp(1, 5000), nat=nat) == ["new|trk|snat"]
    (connection,) = tracker.connections()
    assert connection.original == Tuple(IPv4Address("10.0.0.1"), IPv4Address(SERVER), 5000, 53)
    assert connection.reply == Tuple(IPv4Address(SERVER), OUTSIDE, 53, 5000)
    assert connection.nat == "src"
    assert send(tracker, answer(connection), nat=Nat()) == ["est|rpl|trk|dnat"]
    assert send(tracker, udp(1, 5000), nat=Nat()) == ["est|trk|snat"]
    assert send(tracker, udp(SERVER, 53, "10.0.0.1", 5000), nat=Nat(), commit=False) == ["new|trk"], "not its reply"


def test_destination_nat_changes_where_replies_come_from() -> None:
    tracker = make_tracker()
    nat = Nat("dst", IPv4Address("10.9.9.9"), ports=(8080, 8080))
    assert send(tracker, udp(1, 5000), nat=nat) == ["new|trk|dnat"]
    (connection,) = tracker.connections()
    assert connection.reply == Tuple(IPv4Address("10.9.9.9"), IPv4Address("10.0.0.1"), 8080, 5000)
    assert connection.nat == "dst"
    assert send(tracker, answer(connection), nat=Nat()) == ["est|rpl|trk|snat"]
    assert tracker.nat_usage() == {IPv4Address("10.9.9.9"): NatUsage(1, 0)}


def test_without_nat_in_the_action_packets_are_tracked_and_not_translated() -> None:
    tracker = make_tracker()
    send(tracker, udp(1, 5000), nat=Nat("src", OUTSIDE))
    (connection,) = tracker.connections()
    assert send(tracker, answer(connection), nat=None) == ["est|rpl|trk"]


def test_ports_are_kept_where_they_are_free_and_changed_within_their_group() -> None:
    tracker = make_tracker()
    nat = Nat("src", OUTSIDE)
    send(tracker, *(udp(client, port) for client in range(1, 11) for port in (80, 700, 5000)), nat=nat)
    ports = sorted(port for _, port in translated(tracker))
    assert len(set(ports)) == 30
    assert {80, 700, 5000} <= set(ports)
    assert [sum(first <= port <= last for port in ports) for first, last in ((1, 511), (600, 1023), (1024, 65535))] == [
        10, 10, 10,
    ]  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"random": True}, {"hash": True}], ids=str)
@pytest.mark.parametrize(("addresses", "ports"), [(1, 100), (1, 20), (3, 40), (4, 1), (2, 150)])
def test_a_range_is_used_up_before_the_first_refusal(addresses: int, ports: int, options: dict[str, bool]) -> None:
    tracker = make_tracker()
    nat = Nat("src", OUTSIDE, OUTSIDE + addresses - 1, (2000, 1999 + ports), **options)
    n = addresses * ports
    states = send(tracker, *(udp(i // 50, 3000 + i % 50) for i in range(n + 7)), nat=nat)
    assert states == ["new|trk|snat"] * n + [REFUSED] * 7
    assert sorted(translated(tracker)) == sorted(
        (str(OUTSIDE + a), 2000 + p) for a in range(addresses) for p in range(ports)
    )
    assert tracker.statistics()["invalid-nat-exhausted"] == 7
    usage = tracker.nat_usage()
    assert sum(address.exhausted for address in usage.values()) == 7
    assert [address.used for address in usage.values()] == [ports] * addresses
    assert send(tracker, udp(9, 9, "198.51.100.2"), nat=nat) == ["new|trk|snat"], "another server: all is free"
    assert_reply_tuples_differ(tracker, START_MS)


def test_without_random_and_hash_a_port_of_the_range_is_kept() -> None:
    tracker = make_tracker()
    send(tracker, *(udp(1, 2000 + n) for n in range(20)), nat=Nat("src", OUTSIDE, None, (2000, 2999)))
    assert sorted(port for _, port in translated(tracker)) == [*range(2000, 2020)]


@pytest.mark.parametrize("option", ["random", "hash"])
def test_random_and_hash_choose_other_ports(option: str) -> None:
    tracker = make_tracker()
    nat = Nat("src", OUTSIDE, None, (2000, 2999), random=option == "random", hash=option == "hash")
    send(tracker, *(udp(1, 2000 + n) for n in range(50)), nat=nat)
    moved = [c for c in tracker.connections() if c.reply.destination_port != c.original.source_port]
    assert len(moved) > 40


def test_random_ports_differ_for_one_connection_and_hashed_ones_do_not() -> None:
    for option, expected in (("random", False), ("hash", True)):
        tracker = make_tracker()
        nat = Nat("src", OUTSIDE, None, (2000, 60000), random=option == "random", hash=option == "hash")
        seen = set()
        for _ in range(5):
            send(tracker, udp(1, 999), nat=nat)
            seen.update(translated(tracker))
            tracker.flush()
        assert (len(seen) == 1) is expected


def test_addresses_are_spread_over_the_range_and_stay_with_a_persistent_client() -> None:
    last = OUTSIDE + 15
    tracker = make_tracker()
    send(tracker, *(udp(client, 1000 + n) for client in range(20) for n in range(20)), nat=Nat("src", OUTSIDE, last))
    spread = Counter(address for address, _ in translated(tracker))
    assert len(spread) == 16 and max(spread.values()) < 60
    kept = []
    for seed in (1, 2):
        tracker = make_tracker(seed=seed)
        nat = Nat("src", OUTSIDE, last, persistent=True)
        send(tracker, *(udp(client, 1000 + n) for client in range(20) for n in range(20)), nat=nat)
        by_client: dict[object, set[object]] = {}
        for connection in tracker.connections():
            by_client.setdefault(connection.original.source, set()).add(connection.reply.destination)
        assert all(len(addresses) == 1 for addresses in by_client.values())
        assert len({address for addresses in by_client.values() for address in addresses}) > 5
        kept.append(by_client)
    assert kept[0] == kept[1], "whatever the key of the table"


def test_an_expired_connection_gives_its_port_back_at_that_millisecond_swept_or_not() -> None:
    for ports in (10, 200):
        tracker = make_tracker()
        nat = Nat("src", OUTSIDE, None, (2000, 1999 + ports))
        states = send(tracker, *(udp(i // 50, 3000 + i % 50) for i in range(ports)), nat=nat)
        assert set(states) == {"new|trk|snat"}
        assert send(tracker, udp(100, 1), nat=nat, at_ms=START_MS + 500) == [REFUSED]
        assert send(tracker, udp(0, 3000), nat=Nat(), at_ms=START_MS + 1000) == ["new|trk|snat"], "lives on"
        assert send(tracker, udp(100, 1), nat=nat, at_ms=START_MS + UDP_TIMEOUT_MS - 1) == [REFUSED]
        later = [udp(100, 1 + n) for n in range(ports)]
        states = send(tracker, *later, nat=nat, at_ms=START_MS + UDP_TIMEOUT_MS)
        assert states == ["new|trk|snat"] * (ports - 1) + [REFUSED]
        assert_reply_tuples_differ(tracker, START_MS + UDP_TIMEOUT_MS)


def test_a_shorter_life_frees_a_port_of_a_crowded_range() -> None:
    tracker = make_tracker()
    nat = Nat("src", OUTSIDE, None, (2000, 2199))

    def syn(client: int, port: int, **flags: bool) -> Packet:
        return Packet().eth().ipv4(f"10.0.1.{client}", SERVER).tcp(port, 80, seq=100, **(flags or {"syn": True}))

    def back(connection: Connection) -> list[Packet]:
        way = connection.reply
        reply = Packet().eth().ipv4(str(way.source), str(way.destination))
        return [reply.tcp(80, way.destination_port, seq=500, ack_number=101, syn=True, ack=True)]

    states = send(tracker, *(syn(1 + i // 50, 3000 + i % 50) for i in range(200)), nat=nat)
    assert set(states) == {"new|trk|snat"}
    first = next(tracker.connections())
    assert send(tracker, *back(first), nat=Nat()) == ["est|rpl|trk|dnat"]
    ack = Packet().eth().ipv4(str(first.original.source), SERVER)
    assert send(tracker, ack.tcp(first.original.source_port, 80, seq=101, ack_number=501, ack=True), nat=Nat()) == [
        "est|trk|snat"
    ]
    late = START_MS + 29_000
    others = [c for c in tracker.connections() if c.id != first.id]
    for connection in others:
        send(tracker, *back(connection), nat=Nat(), at_ms=late)
    assert send(tracker, syn(200, 1), nat=nat, at_ms=late) == [REFUSED]
    reset = ack.tcp(first.original.source_port, 80, seq=101, ack_number=501, rst=True)
    assert send(tracker, reset, nat=Nat(), at_ms=late) == ["est|trk|snat"]
    assert send(tracker, syn(200, 1), nat=nat, at_ms=late + 29_999) == [REFUSED]
    assert send(tracker, syn(200, 1), nat=nat, at_ms=late + 30_000)[0] == "new|trk|snat"


def test_flushing_frees_ports_and_works_by_either_tuple() -> None:
    tracker = make_tracker()
    nat = Nat("src", OUTSIDE, None, (2000, 2199))
    send(tracker, *(udp(i // 50, 3000 + i % 50) for i in range(200)), nat=nat)
    assert send(tracker, udp(100, 1), nat=nat) == [REFUSED]
    connection = next(tracker.connections())
    assert tracker.flush(wanted=connection.reply, protocol=UDP) == 1
    assert send(tracker, udp(100, 1), nat=nat) == ["new|trk|snat"]
    assert connection.reply.destination_port in {port for _, port in translated(tracker)}
    assert tracker.flush() == 200
    assert tracker.nat_usage() == {OUTSIDE: NatUsage(0, 1)}
    assert int(tracker.arrays.state["n_entries"][0]) == 0
    assert send(tracker, *(udp(i // 50, 3000 + i % 50) for i in range(200)), nat=nat) == ["new|trk|snat"] * 200


def test_null_binding_gives_way_to_another_source_port() -> None:
    tracker = make_tracker()
    send(tracker, udp(1, 5000), nat=Nat("src", IPv4Address("10.0.0.2")))
    assert send(tracker, udp(2, 5000), nat=Nat()) == ["new|trk|snat"]
    assert send(tracker, udp(2, 5001), nat=Nat()) == ["new|trk"], "nothing in its way"
    second, third = sorted(
        (c for c in tracker.connections() if str(c.original.source) == "10.0.0.2"), key=lambda c: c.original.source_port
    )
    assert second.reply.destination == second.original.source
    assert second.reply.destination_port not in (5000, 0) and second.reply.destination_port >= 1024
    assert third.nat is None and third.reply.destination_port == 5001
    assert_reply_tuples_differ(tracker, START_MS)


def test_source_nat_without_an_address_counts_as_nat_and_resolves_clashes() -> None:
    tracker = make_tracker()
    assert send(tracker, udp(2, 5000), nat=Nat("src")) == ["new|trk|snat"]
    (connection,) = tracker.connections()
    assert connection.reply == Tuple(IPv4Address(SERVER), IPv4Address("10.0.0.2"), 53, 5000)
    assert send(tracker, answer(connection), nat=Nat()) == ["est|rpl|trk|dnat"]
    send(tracker, udp(1, 6000), nat=Nat("src", IPv4Address("10.0.0.2")))
    assert send(tracker, udp(2, 6000), nat=Nat("src")) == ["new|trk|snat"]
    assert_reply_tuples_differ(tracker, START_MS)
    assert len(tracker) == 3


def test_destination_nat_changes_source_ports_only_when_all_destination_ports_are_taken() -> None:
    tracker = make_tracker()
    nat = Nat("dst", IPv4Address("10.9.9.9"), None, (80, 82))
    servers = [f"198.51.100.{n}" for n in range(1, 8)]
    assert set(send(tracker, *(udp(1, 5000, server) for server in servers), nat=nat)) == {"new|trk|dnat"}
    ways = [(c.reply.source_port, c.reply.destination_port) for c in tracker.connections()]
    assert len(set(ways)) == 7
    assert sorted(port for port, own in ways if own == 5000) == [80, 81, 82]
    assert_reply_tuples_differ(tracker, START_MS)


def test_icmp_ids_are_translated_like_ports() -> None:
    tracker = make_tracker()
    assert set(send(tracker, *(echo(client, 7) for client in range(5)), nat=Nat("src", OUTSIDE))) == {"new|trk|snat"}
    ids = [c.reply.icmp_id for c in tracker.connections()]
    assert sorted(id or 0 for id in ids) == [7, 8, 9, 10, 11]
    reply = Packet().eth().ipv4(SERVER, str(OUTSIDE)).icmp(0, id=ids[3] or 0)
    assert send(tracker, reply, nat=Nat()) == ["est|rpl|trk|dnat"]
    tracker.flush()
    nat = Nat("src", OUTSIDE, None, (100, 149))
    states = send(tracker, *(echo(client, 7) for client in range(52)), nat=nat)
    assert states == ["new|trk|snat"] * 50 + [REFUSED] * 2
    assert_reply_tuples_differ(tracker, START_MS)


def test_icmp_ids_begin_anew_behind_the_last_one() -> None:
    tracker = make_tracker()
    states = send(tracker, *(echo(client, 0xFFFF) for client in range(20)), nat=Nat("src", OUTSIDE))
    assert set(states) == {"new|trk|snat"}
    assert sorted(c.reply.icmp_id or 0 for c in tracker.connections()) == [*range(19), 0xFFFF]


def test_a_protocol_without_ports_has_one_connection_per_address() -> None:
    tracker = make_tracker()
    nat = Nat("src", OUTSIDE, OUTSIDE + 1)
    packets = [Packet().eth().ipv4(f"10.0.0.{n}", SERVER).protocol(47, b"tunneled") for n in (1, 2, 3)]
    assert send(tracker, *packets, nat=nat) == ["new|trk|snat", "new|trk|snat", REFUSED]


def test_an_address_of_the_other_family_is_left_alone() -> None:
    tracker = make_tracker()
    packet = Packet().eth().ipv6("2001:db8::1", "2001:db8::2").udp(5, 6)
    assert send(tracker, packet, nat=Nat("src", OUTSIDE, None, (100, 200))) == ["new|trk"]
    (connection,) = tracker.connections()
    assert connection.reply.destination_port == 5 and connection.nat is None


def test_ipv6_ranges_may_cross_every_boundary() -> None:
    first = IPv6Address("2001:db8::ffff:ffff:ffff:fffe")
    tracker = make_tracker()
    packets = [Packet().eth().ipv6(f"2001:db8:1::{n:x}", "2001:db8:2::1").udp(1000, 53) for n in range(1, 5)]
    states = send(tracker, *packets, nat=Nat("src", first, first + 3, (7, 7)))
    assert states == ["new|trk|snat"] * 4
    assert {c.reply.destination for c in tracker.connections()} == {first + n for n in range(4)}


def test_of_a_long_range_of_addresses_so_many_are_tried() -> None:
    tracker = make_tracker(max_connections=20_000)
    nat = Nat("src", OUTSIDE, OUTSIDE + 4 * MAX_ADDRESSES_TRIED - 1, (7, 7))
    states = send(tracker, *(udp(i, 5) for i in range(4 * MAX_ADDRESSES_TRIED)), nat=nat)
    assert states.count("new|trk|snat") > 3 * MAX_ADDRESSES_TRIED


def test_the_table_grows_while_connections_are_translated() -> None:
    tracker = make_tracker(max_connections=20_000)
    rng = random.Random(3)
    nat = Nat("src", OUTSIDE, OUTSIDE + 3)
    for step in range(40):
        packets = [udp(rng.randrange(4000), rng.randrange(1024, 65536)) for _ in range(100)]
        send(tracker, *packets, nat=nat, at_ms=START_MS + step * 100)
        for connection in list(tracker.connections())[:: 1 + step]:
            assert tracker.find(connection.reply, UDP) is not None
    assert int(tracker.arrays.state["base"][0]) > 64
    assert_reply_tuples_differ(tracker, tracker.now_ms)
    tracker.sweep(START_MS + 10 * UDP_TIMEOUT_MS)
    assert len(tracker) == 0 and int(tracker.arrays.state["n_entries"][0]) == 0
    assert all(usage.used == 0 for usage in tracker.nat_usage().values())


def test_force_turns_a_translated_connection_round() -> None:
    tracker = make_tracker()
    send(tracker, udp(1, 5000), nat=Nat("src", OUTSIDE))
    (connection,) = tracker.connections()
    assert send(tracker, answer(connection), nat=Nat("src", IPv4Address("203.0.113.5")), force=True) == ["new|trk|snat"]
    (turned,) = tracker.connections()
    assert turned.original == connection.reply
    assert str(turned.reply.destination) == "203.0.113.5"
    assert tracker.nat_usage() == {IPv4Address("203.0.113.5"): NatUsage(1, 0)}


def test_gauges_beyond_their_number_are_counted_together() -> None:
    tracker = make_tracker(max_connections=10_000)
    nat = Nat("src", OUTSIDE, OUTSIDE + (1 << 20))
    send(tracker, *(udp(i, 5) for i in range(N_GAUGES + 1000)), nat=nat)
    usage = tracker.nat_usage()
    assert len(usage) <= N_GAUGES
    assert sum(one.used for one in usage.values()) == N_GAUGES + 1000
    assert usage[None].used > 0
    tracker.flush()
    assert all(one.used == 0 for one in tracker.nat_usage().values())
    send(tracker, udp(1, 1), nat=Nat("src", IPv4Address("203.0.113.9")))
    assert tracker.nat_usage() == {IPv4Address("203.0.113.9"): NatUsage(1, 0)}


def test_a_crowd_of_ranges_shares_the_pools() -> None:
    """More crowded ranges than there are pools, all full, all with the right answer."""
    tracker = make_tracker(max_connections=30_000)
    nat = Nat("src", OUTSIDE, None, (2000, 2039))
    servers = [str(IPv4Address("198.51.0.0") + n) for n in range(300)]
    for server in servers:
        assert set(send(tracker, *(udp(i, 9, server) for i in range(40)), nat=nat)) == {"new|trk|snat"}
    for server in servers:
        assert send(tracker, udp(77, 9, server), nat=nat) == [REFUSED]


@pytest.mark.needs_jit
def test_all_ports_of_an_address_are_used_and_freed() -> None:
    """64512 connections to one server, behind one address; all expire at once."""
    tracker = make_tracker(max_connections=200_000)
    nat = Nat("src", OUTSIDE)
    n = 65536 - 1024
    clients = [0x0A000001 + i for i in range(n + 500)]
    batch = frames(UDP, np.array(clients, np.uint32), np.full(n + 500, 5000, np.uint16))
    states = tracker.track(batch, commit=True, nat=nat)
    assert (states[:n] == 0x61).all() and (states[n:] == 0x30).all()
    assert len(set(translated(tracker))) == n
    assert tracker.nat_usage() == {OUTSIDE: NatUsage(n, 500)}
    batch.packets["time_ns"] += UDP_TIMEOUT_MS * 1_000_000
    again = tracker.track(batch, commit=True, nat=nat)
    assert (again == 0x61).sum() == n
    assert tracker.nat_usage()[OUTSIDE].used == n


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("both",), "src or dst"),
        ((None, OUTSIDE), "need a kind"),
        (("src", None, None, (1, 2)), "first address"),
        (("src", OUTSIDE, IPv4Address("1.1.1.1")), "before it begins"),
        (("src", OUTSIDE, IPv6Address("::5")), "different families"),
        (("src", IPv4Address("0.0.0.0")), "all zeros"),
        (("src", OUTSIDE, None, (0, 5)), "no range of ports"),
        (("src", OUTSIDE, None, (9, 5)), "no range of ports"),
        (("src", OUTSIDE, None, None, True, True), "exclude each other"),
    ],
)
def test_specifications_that_contradict_themselves(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Nat(*arguments)  # type: ignore[arg-type]


NATS = [
    Nat(),
    Nat("src"),
    Nat("src", OUTSIDE, None, (2000, 2004)),
    Nat("src", OUTSIDE, OUTSIDE + 1, (2000, 2050)),
    Nat("src", OUTSIDE, OUTSIDE + 1, (2000, 2050), random=True),
    Nat("src", ip_address("10.0.0.1")),
    Nat("dst", ip_address("10.0.0.2"), None, (53, 54)),
    Nat("dst", ip_address("10.0.0.2"), ip_address("10.0.0.4"), persistent=True),
]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1, 256]))
def test_whatever_happens_reply_tuples_differ(seed: int, batch_size: int) -> None:
    rng = random.Random(seed)
    tracker = make_tracker(max_connections=300, batch_size=batch_size)
    now = START_MS
    for _ in range(12):
        now += rng.choice((0, 10, 5_000, 59_000, 61_000))
        packets = []
        for _ in range(20):
            ends = rng.sample(["10.0.0.1", "10.0.0.2", "10.0.0.3", SERVER], 2)
            ports = rng.choice((53, 2000, 2001, 5000)), rng.choice((53, 54, 2000))
            packet = Packet().eth().ipv4(*ends)
            packets.append(packet.icmp(8, id=ports[0]) if rng.random() < 0.2 else packet.udp(*ports))
        # what is committed without NAT may take tuples that NAT has given away, so all of it has some
        send(tracker, *packets, nat=rng.choice(NATS), at_ms=now, zone=rng.randrange(2))
        assert_reply_tuples_differ(tracker, now)
        if rng.random() < 0.1:
            tracker.flush(zone=rng.randrange(2))
    gauges = sum(usage.used for usage in tracker.nat_usage().values())
    assert gauges == np.count_nonzero([c.nat is not None for c in tracker.connections(0)])
    assert len(tracker) == len(list(tracker.connections(0)))
