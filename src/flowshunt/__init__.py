"""Flowshunt: a stateful virtual switch whose established connections are shunted past the slow path.

    >>> from flowshunt import Switch
    >>> from flowshunt.ports.capture import open_capture
    >>> switch = Switch(profile="default")
    >>> inside, outside = switch.add_port("p0"), switch.add_port("pf0hpf")
    >>> switch.add_flows('''
    ... table=0,arp,action=normal
    ... table=0,ip,ct_state=-trk,action=ct(table=1)
    ... table=1,ip,ct_state=+trk+new,action=ct(commit),normal
    ... table=1,ip,ct_state=+trk+est,action=normal''')
    4
    >>> for batch in open_capture("some.pcap").batches(4096):
    ...     result = switch.process(batch)  # result.ct_state, result.fate, result.tx
    >>> for connection in switch.tracker.connections():
    ...     print(connection.original, connection.state, connection.packets)

`Switch` is tables, actions and tracker together; `Tracker` is connection tracking alone. Importing this package is
cheap; the first use of either imports the kernels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowshunt.base.version import VERSION

if TYPE_CHECKING:
    from flowshunt.app import Switch
    from flowshunt.conntrack.table import Tracker

__all__ = ["Switch", "Tracker", "__version__"]

__version__ = VERSION


def __getattr__(name: str) -> Any:
    if name == "Switch":
        from flowshunt.app import Switch

        return Switch
    if name == "Tracker":
        from flowshunt.conntrack.table import Tracker

        return Tracker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
