"""What is left of root's privileges, asked of the kernel."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from flowshunt.base.errors import UsageError
from flowshunt.daemon import privileges as P

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to have something to give up")
STATUS = """
import sys
from flowshunt.base.errors import FlowshuntError
from flowshunt.daemon.privileges import drop_privileges, find_account
try:
    missing = drop_privileges(find_account(sys.argv[1]) if len(sys.argv) > 1 else None)
except FlowshuntError as error:
    sys.exit(str(error))
import socket
socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
print(open("/proc/self/status").read(), "missing:", sorted(missing))
"""


def status(*arguments: str, prefix: tuple[str, ...] = (), code: int = 0) -> dict[str, str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [*prefix, sys.executable, "-c", STATUS, *arguments], capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.returncode == code, done.stderr
    lines = (done.stdout or f"error:{done.stderr}").splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def capabilities(mask: str) -> set[int]:
    return {number for number in range(64) if int(mask, 16) >> number & 1}


@needs_root
@pytest.mark.parametrize("user", [None, "nobody", "nobody:", "nobody:daemon"])
def test_of_roots_capabilities_those_of_a_switch_are_kept(user: str | None) -> None:
    found = status(*([] if user is None else [user]))
    kept = capabilities(found["CapEff"])
    assert {P.NET_ADMIN, P.NET_RAW} <= kept <= set(P.PURPOSES)
    assert capabilities(found["CapPrm"]) == kept and capabilities(found["CapBnd"]) <= set(P.PURPOSES)
    assert capabilities(found["CapInh"]) == capabilities(found["CapAmb"]) == set()
    assert found["NoNewPrivs"] == "1"
    assert set(found["Uid"].split()) == ({"0"} if user is None else {"65534"})
    if user is not None:
        assert found["Groups"] == ""
        assert set(found["Gid"].split()) == ({"1"} if user == "nobody:daemon" else {"65534"})


@needs_root
def test_what_is_missing_is_named() -> None:
    without = ("setpriv", "--bounding-set", "-net_admin,-setuid", "--inh-caps", "-net_admin,-setuid", "--")
    assert "12" in status(prefix=without)["missing"]
    assert status("nobody", prefix=without, code=1)["error"] == "cannot become user nobody: CAP_SETUID is missing"
    other = ("setpriv", "--reuid=1", "--regid=1", "--clear-groups", "--")
    assert status("nobody", prefix=other, code=1)["error"] == "only root can become user nobody"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no-such-user", "user no-such-user not found"),
        ("root:no-such-group", "group no-such-group not found"),
        ("", "names no user"),
        (":", "names no user"),
    ],
)
def test_accounts_that_are_not_there(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        P.find_account(spec)


def test_accounts_by_name() -> None:
    assert P.find_account("root") == P.Account("root", 0, 0)
    assert P.find_account("root:") == P.Account("root", 0, 0)
    assert P.find_account("root:daemon").gid == 1
    assert P.find_account(":daemon").uid == os.geteuid()


def test_what_does_not_work_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        P.tell_missing(frozenset((P.NET_RAW, P.BPF)))
    assert [(each.levelname, each.getMessage().split(" is missing")[0]) for each in caplog.records] == [
        ("WARNING", "CAP_NET_RAW"),
        ("INFO", "CAP_BPF"),
    ]
