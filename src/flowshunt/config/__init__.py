"""Settings of a switch as a TOML file: what there is to set, reading it, and what changes from one file to the next.

- `model`: frozen dataclasses, one per section, with type, range, default and description of every setting.
- `read`: a file to a `Config`, or to all of its mistakes at once, each with its line (`positions`).
- `changes`: the difference of two configurations as a list of actions, in the order in which they can be carried out.
- `show`: the settings there are as a commented TOML file.

Nothing here touches a switch: `flowshunt.app` carries the actions out. Reading needs no numba.

May import: the settings and names of lower layers, `base`; nothing that brings kernels.
"""

from __future__ import annotations

from flowshunt.config.changes import Action, changes
from flowshunt.config.model import Config
from flowshunt.config.read import ConfigError, read_config

__all__ = ["Action", "Config", "ConfigError", "changes", "read_config"]
