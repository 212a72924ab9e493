"""unixctl: the commands of `ovs-appctl`, over JSON-RPC 1.0 on a private unix socket.

    server       owns the socket (asyncio) and the name by which ovs-appctl finds it
    registry     which commands there are; usage, arity, options, and the errors that users of ovs-appctl know
    node         what commands need of the running switch, as Protocols
    vlog         log levels by module and destination, log files, the log's format
    commands/    the commands, a module for each prefix

The bytes are those of `control.jsonrpc`. A command is a coroutine that gets the node and its arguments and returns the
text to print, newline included; it raises `CommandError` with what the user is to read. Commands reach what belongs to
the packet thread only through `node.call`; what may be long goes there in slices.

Where to put a command: into the module of its prefix, as a line of its `COMMANDS`.

May import: `rules`, `offload`, `datapath`, `conntrack`, `ports`, `packet`, `base`, `control.jsonrpc`. Hands out:
`Server`, `Registry`, `everything` (all commands).
"""
