"""Programs out of an object file: the little of ELF that clang writes for BPF (64 bits, little-endian)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQ")
_MACHINE_BPF = 247
_SYMTAB, _REL = 2, 9
_R_BPF_64_64 = 1
_LOAD_64 = 0x18
_PSEUDO_MAP_FD = 1


class _Section(NamedTuple):
    name: str
    type: int
    link: int
    info: int
    data: bytes


class ObjectFile:
    """An object file's programs, by the section that each is alone in, such as `tc/NAME`."""

    def __init__(self, content: bytes) -> None:
        """Raises ValueError for anything else."""
        if len(content) < _HEADER.size or content[:6] != b"\x7fELF\x02\x01":
            raise ValueError("not an object file of 64 bits, little-endian")
        header = _HEADER.unpack_from(content)
        if header[2] != _MACHINE_BPF:
            raise ValueError(f"an object file for machine {header[2]}, not for BPF")
        self._sections = _sections(content, start=header[6], n=header[12], names=header[13])
        self._symbols = self._symbol_names()
        self.license = self._named("license").data.rstrip(b"\0").decode()

    def _named(self, name: str) -> _Section:
        for section in self._sections:
            if section.name == name:
                return section
        raise ValueError(f"the object file has no section {name}")

    def _symbol_names(self) -> list[str]:
        symbols = next((section for section in self._sections if section.type == _SYMTAB), None)
        if symbols is None:
            raise ValueError("the object file has no symbols")
        strings = self._sections[symbols.link].data
        return [_text(strings, symbol[0]) for symbol in _SYMBOL.iter_unpack(symbols.data)]

    def program(self, section_name: str, maps: Mapping[str, int]) -> bytes:
        """A program's instructions, with the descriptors of `maps` where it names them. Raises KeyError for others."""
        place = next((n for n, section in enumerate(self._sections) if section.name == section_name), None)
        if place is None:
            raise ValueError(f"the object file has no program {section_name}")
        code = bytearray(self._sections[place].data)
        for section in self._sections:
            if section.type == _REL and section.info == place:
                for offset, about in _RELOCATION.iter_unpack(section.data):
                    _fill_in(code, offset, about & 0xFFFFFFFF, maps[self._symbols[about >> 32]])
        return bytes(code)


def _fill_in(code: bytearray, offset: int, kind: int, map_fd: int) -> None:
    if kind != _R_BPF_64_64 or offset + 16 > len(code) or code[offset] != _LOAD_64:
        raise ValueError(f"a relocation of type {kind} at {offset} is not of a map")
    code[offset + 1] = (code[offset + 1] & 0x0F) | _PSEUDO_MAP_FD << 4
    struct.pack_into("<i", code, offset + 4, map_fd)


def _sections(content: bytes, *, start: int, n: int, names: int) -> list[_Section]:
    if start + n * _SECTION.size > len(content) or names >= n:
        raise ValueError("the object file is cut off")
    headers = [_SECTION.unpack_from(content, start + i * _SECTION.size) for i in range(n)]
    strings = content[headers[names][4] :][: headers[names][5]]
    return [
        _Section(_text(strings, header[0]), header[1], header[6], header[7], content[header[4] :][: header[5]])
        for header in headers
    ]


def _text(strings: bytes, at: int) -> str:
    return strings[at : strings.index(b"\0", at)].decode()
