"""`flowshunt show`, `flowshunt flows`: what a switch that runs has, as it says itself."""

from __future__ import annotations

from flowshunt.cli.daemon_client import ask, find_socket


def show(socket: str | None) -> None:
    """Bridges with their ports, and how many connections there are."""
    place = find_socket(socket)
    print(ask(place, "dpif/show"), end="")
    print(f"connections: {ask(place, 'dpctl/ct-get-nconns').strip()} of {ask(place, 'dpctl/ct-get-maxconns').strip()}")


def flows(bridge: str | None, socket: str | None) -> None:
    """Flows of a bridge, or of all, with their counters."""
    place = find_socket(socket)
    for name in [bridge] if bridge is not None else ask(place, "ofproto/list").split():
        if bridge is None:
            print(f"bridge {name}")
        print(ask(place, "bridge/dump-flows", name), end="")
