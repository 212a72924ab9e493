"""The command `flowshunt`: arguments in, text out.

`main` is its entry point. The modules beside it hold what every command shares (`commands` and `completion`: what a
command line is made of, `failures`: errors and exit status, `terminal`, `layout` and `numbers`: how things look,
`kernels`: compiling ahead), the packages the commands themselves.

`flowshunt --help` must not wait for numba, so `main` and what it imports at the top stay clear of it, and a command
imports the rest when it runs.

May import: everything below; click and rich.
"""

from flowshunt.cli.main import main

__all__ = ["main"]
