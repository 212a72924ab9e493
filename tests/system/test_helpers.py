"""FTP and TFTP by real clients and servers: the connections that helpers let through, with and without NAT."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.lab import TOOLS, Lab
from tests.system.network import needs, poll

pytestmark = needs(*TOOLS, "curl", "vsftpd", "dnsmasq", "ss")
CONTENT = "some content\n" * 5_000
FTP = """\
{ip},ct_state=-trk,actions=ct(table=1{bare})
table=1,in_port=1,{ip},tp_dst=21,ct_state=+new+trk,actions=ct(commit,alg=ftp{nat}),2
table=1,priority=1,in_port=1,{ip},ct_state=+new+rel+trk,actions=ct(commit{bare}),2
table=1,in_port=2,{ip},ct_state=+new+rel+trk,actions=ct(commit{bare}),1
table=1,in_port=1,{ip},ct_state=+est+trk,actions=2
table=1,in_port=2,{ip},ct_state=+est+trk,actions=1
"""
TFTP = """\
{ip},ct_state=-trk,actions=ct(table=1{bare})
table=1,in_port=1,{ip},tp_dst=69,ct_state=+new+trk,actions=ct(commit,alg=tftp{nat}),2
table=1,in_port=2,{ip},ct_state=+new+rel+trk,actions=ct(commit{bare}),1
table=1,in_port=1,{ip},ct_state=+est+trk,actions=2
table=1,in_port=2,{ip},ct_state=+est+trk,actions=1
"""
VSFTPD = """\
listen=NO
listen_ipv6=YES
background=NO
anonymous_enable=YES
no_anon_password=YES
anon_root={root}
secure_chroot_dir={empty}
seccomp_sandbox=NO
isolate=NO
isolate_network=NO
connect_from_port_20=YES
"""
WAYS = {
    "EPSV": (),
    "PASV": ("--disable-epsv", "--no-ftp-skip-pasv-ip"),
    "EPRT": ("-P", "-"),
    "PORT": ("-P", "-", "--disable-eprt"),
}
TRANSLATIONS = {
    "untranslated": ("", "10.1.1.2", "fc00::2"),
    "source": (",nat(src={one}240)", "10.1.1.2", "fc00::2"),
    "target": (",nat(dst={one}2)", "10.1.1.64", "fc00::64"),
}
FTP_CASES = [
    (family, way, translation)
    for family in (4, 6)
    for way in (WAYS if family == 4 else ("EPSV", "EPRT"))
    for translation in TRANSLATIONS
]


@pytest.fixture(scope="module")
def servers(_lab: Lab) -> Lab:
    """A lab whose host 2 offers `content` by FTP and TFTP."""
    root, empty = _lab.directory / "root", _lab.directory / "empty"
    _lab.directory.chmod(0o755)  # they give up their rights
    for directory in (root, empty):
        directory.mkdir()
    content = root / "content"
    content.write_text(CONTENT)
    content.chmod(0o644)
    settings = Path(_lab.directory / "vsftpd.conf")
    settings.write_text(VSFTPD.format(root=root, empty=empty))
    _lab.network.start("h2", "vsftpd", str(settings))
    words = ("--no-daemon", "--conf-file=/dev/null", "--port=0", "--enable-tftp", f"--tftp-root={root}", "--user=root")
    _lab.network.start("h2", "dnsmasq", *words)
    poll(lambda: ":21 " in _lab.network.run("h2", "ss", "-Hltn"))
    poll(lambda: ":69 " in _lab.network.run("h2", "ss", "-Hlun"))
    _lab.know(2, "10.1.1.240", 1)
    _lab.know(2, "fc00::240", 1)
    _lab.know(1, "10.1.1.64", 2)
    _lab.know(1, "fc00::64", 2)
    return _lab


def prepare(lab: Lab, rules: str, family: int, translation: str) -> str:
    """Set the rules; returns the address to call, as in a URL."""
    spec, *targets = TRANSLATIONS[translation]
    nat = spec.format(one="10.1.1." if family == 4 else "fc00::")
    ip = "ip,nw_proto=" if family == 4 else "ipv6,nw_proto="
    lab.rules(rules.format(ip=ip + ("6" if rules is FTP else "17"), nat=nat, bare=",nat" if nat else ""))
    return targets[0] if family == 4 else f"[{targets[1]}]"


@pytest.mark.parametrize(("family", "way", "translation"), FTP_CASES)
def test_ftp(servers: Lab, lab: Lab, family: int, way: str, translation: str) -> None:
    address = prepare(lab, FTP, family, translation)
    said = lab.network.run("h1", "curl", "-sS", "--max-time", "30", *WAYS[way], f"ftp://{address}/content")
    assert said == CONTENT
    lines = lab.connections("-m")
    (control,) = [line for line in lines if "helper=ftp" in line]
    (data,) = [line for line in lines if "parent=" in line]
    assert control.startswith(f"tcp,orig=(src={'10.1.1.1' if family == 4 else 'fc00::1'},dst={address.strip('[]')},")
    is_active = way in ("EPRT", "PORT")
    assert data.startswith(f"tcp,orig=(src={'10.1.1.' if family == 4 else 'fc00::'}{2 if is_active else 1},")
    assert lab.packets(f"table=1,in_port={2 if is_active else 1},ct_state=+new+rel+trk") == 1


def test_ftp_without_its_helper_gets_no_data(servers: Lab, lab: Lab) -> None:
    lab.rules(FTP.format(ip="tcp", nat="", bare="").replace(",alg=ftp", ""))
    words = ("curl", "-sS", "--max-time", "30", "--connect-timeout", "1", "ftp://10.1.1.2/content")
    assert CONTENT not in lab.network.run("h1", *words, check=False)
    assert len(lab.connections()) == 1


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("translation", TRANSLATIONS)
def test_tftp(servers: Lab, lab: Lab, family: int, translation: str) -> None:
    address = prepare(lab, TFTP, family, translation)
    said = lab.network.run("h1", "curl", "-sS", "--max-time", "30", f"tftp://{address}/content")
    assert said == CONTENT
    lines = lab.connections("-m")
    assert len(lines) == 2
    assert [line for line in lines if "dport=69" in line and "helper=tftp" in line]
    assert lab.packets("table=1,in_port=2,ct_state=+new+rel+trk") == 1
