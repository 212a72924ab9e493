"""Every connection of a capture that is not answered, and who asked."""

from flowshunt import Switch
from flowshunt.ports.capture import open_capture

switch = Switch()
switch.add_port("p0")
switch.add_flows("table=0,ip,actions=ct(commit,table=1)\ntable=1,actions=normal")

with open_capture("demo/demo.pcap", in_port=1) as capture:
    for batch in capture.batches(4096):
        result = switch.process(batch)  # result.ct_state, result.fate, result.tx

for connection in switch.tracker.connections():
    if not connection.seen_reply:
        print(connection.original.source, "asked", connection.original.destination, connection.protocol_name)
