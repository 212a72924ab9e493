"""`flowshunt vswitchd`: the switch in place of ovs-vswitchd, by its flags, files and exit.

A shell script of that name on PATH, `exec flowshunt vswitchd "$@"`, is enough for scripts that start ovs-vswitchd.

    arguments    the flags, as getopt_long(3) reads them
    detaching    going to the background, once there is something to talk to
    main         the command

Until it has detached, nothing is imported that would be slow.
"""
