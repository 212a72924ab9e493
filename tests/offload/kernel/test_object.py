"""The object that ships with the package: it is what its source makes, and its structures are ours."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import flowshunt.offload.providers.kernel as package
from flowshunt.offload.providers.kernel.elf import ObjectFile
from flowshunt.offload.providers.kernel.objects import object_file
from flowshunt.offload.providers.kernel.records import CONTROL, KEY, PORT, REASONS, STATE, VALUE

BPF = Path(package.__file__).with_name("bpf")
COMPILER = "clang"
FLAGS = ("-O2", "-target", "bpf", "-mcpu=v3", "-Wall", "-Werror")
VERSION = "14."
"""The one that the object was built with, Debian 12's; others write other instructions."""


def _version() -> str:
    if shutil.which(COMPILER) is None:
        return "none"
    said = subprocess.run([COMPILER, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"version (\S+)", said)
    return found.group(1) if found else "unknown"


_FOUND = _version()
needs_clang = pytest.mark.skipif(
    not _FOUND.startswith(VERSION), reason=f"needs clang {VERSION}x (Debian 12: apt-get install clang), found {_FOUND}"
)


@needs_clang
@pytest.mark.parametrize("name", ["forward", "xdp"])
def test_the_object_is_what_the_source_compiles_to(name: str, tmp_path: Path) -> None:
    made = tmp_path / f"{name}.o"
    subprocess.run([COMPILER, *FLAGS, "-c", f"{name}.c", "-o", str(made)], cwd=BPF, check=True)
    same = made.read_bytes() == (BPF / f"{name}.o").read_bytes()
    assert same, f"{name}.o is not what {name}.c compiles to: run `make bpf`"


@needs_clang
@pytest.mark.parametrize(
    ("struct", "record"), [("key", KEY), ("flow", VALUE), ("state", STATE), ("control", CONTROL), ("port", PORT)]
)
def test_structures_have_the_fields_of_the_records_in_the_same_places(
    struct: str, record: object, tmp_path: Path
) -> None:
    fields: dict[str, int] = {name: place for name, (_, place, *_) in record.fields.items()}  # type: ignore[attr-defined]
    checks = [f'_Static_assert(sizeof(struct {struct}) == {record.itemsize}, "size");']  # type: ignore[attr-defined]
    checks += [
        f'_Static_assert(__builtin_offsetof(struct {struct}, {name}) == {place}, "{name}");'
        for name, place in fields.items()
    ]
    (tmp_path / "check.c").write_text(f'#include "{BPF}/forward.c"\n' + "\n".join(checks))
    command = [COMPILER, *FLAGS, "-c", str(tmp_path / "check.c"), "-o", str(tmp_path / "check.o")]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr


def test_reasons_are_named_in_the_order_of_the_source() -> None:
    (names,) = re.findall(r"enum reason \{(.*?)N_REASONS", (BPF / "flows.h").read_text(), re.DOTALL)
    assert [name.strip().lower().replace("_", "-") for name in names.split(",") if name.strip()] == list(REASONS)


def test_programs_get_the_descriptors_of_their_maps() -> None:
    maps = {"flows": 101, "states": 102, "control": 103, "ports": 104, "reasons": 105}
    for source, section, names in (
        ("forward", "tc/forward", maps),
        ("xdp", "xdp/forward", ("flows", "states", "control")),
    ):
        content = object_file(source)
        code = content.program(section, maps)
        loads = [code[n : n + 8] for n in range(0, len(code), 8) if code[n] == 0x18 and code[n + 1] >> 4 == 1]
        assert {int.from_bytes(load[4:], "little") for load in loads} == {maps[name] for name in names}
        assert content.license == "Apache-2.0"
        with pytest.raises(KeyError):
            content.program(section, {})
        with pytest.raises(ValueError, match="no program"):
            content.program("tc/backward", {})


def test_what_is_no_object_file_is_refused() -> None:
    content = (BPF / "forward.o").read_bytes()
    for damaged in (
        b"",
        b"\x7fELF",
        content[:100],
        content[:4] + b"\x01" + content[5:],
        content[:18] + b"\x3e\x00" + content[20:],
    ):
        with pytest.raises(ValueError, match="object file"):
            ObjectFile(damaged)
