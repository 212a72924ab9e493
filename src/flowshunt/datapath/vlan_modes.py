"""What ports may do about VLANs, by the names of Open vSwitch's table Port (ovs-vswitchd.conf.db(5), vlan_mode)."""

MODES = ("all", "access", "trunk", "native-tagged", "native-untagged", "dot1q-tunnel")
"""`all`: packets pass as they are, which Open vSwitch has no word for."""
