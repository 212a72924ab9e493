"""Control: what is asked of a switch while it runs, over OpenFlow, OVSDB and unixctl.

Each protocol is a package of its own. Its codec turns bytes into messages and back and does no I/O; its server owns the
sockets. (`jsonrpc` is the codec of both OVSDB and unixctl.) `stories` tells what happened to
connections on their way to a provider. May import: `rules`, `datapath` and all that lies below
them. What it needs of a switch it declares as a Protocol, and `app` hands it in.
"""
