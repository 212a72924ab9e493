"""The compile cache: loads what fits, notices every change, trusts no stranger, survives damage."""

from __future__ import annotations

import os
import shutil
import stat
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flowshunt.jit.cache import cache_directories, cache_directory

pytestmark = pytest.mark.needs_jit

ENTRY = """
    import numpy as np
    from flowshunt.jit import kernel, pending, warm_up
    from helper import step
    import tables

    @kernel(example=lambda: (np.zeros(1, np.int64), 0))
    def run(values, n):
        for i in range(n):
            values[i] = step(values[i]) * tables.FACTOR
        return n
"""
HELPER = """
    from flowshunt.jit import kernel
    from tables import OFFSETS, Kind

    @kernel
    def step(value):
        return value + OFFSETS[0] + Kind.ONE
"""
TABLES = """
    import enum
    import numpy as np

    OFFSETS = np.array([10, 20])
    FACTOR = 2

    class Kind(enum.IntEnum):
        ONE = 1
"""
MAIN = """
    import numpy as np, entry
    from flowshunt.jit import pending, warm_up
    to_compile = [e.name for e in pending()]
    compiled = warm_up()
    values = np.array([5])
    entry.run(values, 1)
    print(len(to_compile), compiled, values[0])
"""


class Program:
    """Three modules of kernels in a folder, run in a process of their own with a cache of their own."""

    def __init__(self, folder: Path, run_python) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        self._run_python = run_python
        for name, text in {"entry": ENTRY, "helper": HELPER, "tables": TABLES, "main": MAIN}.items():
            (folder / f"{name}.py").write_text(textwrap.dedent(text))

    def change(self, module: str, old: str, new: str) -> None:
        path = self.folder / f"{module}.py"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        shutil.rmtree(self.folder / "__pycache__", ignore_errors=True)

    def run(self, **environment: str | None) -> tuple[str, str]:
        """What it printed (to compile, compiled, result) and its complaints."""
        done = self._run_python(str(self.folder / "main.py"), **{"FLOWSHUNT_CACHE_DIR": str(self.cache)} | environment)
        return done.stdout.strip(), done.stderr

    def files(self) -> list[Path]:
        return sorted(self.cache.iterdir())


@pytest.fixture
def program(tmp_path, run_python) -> Program:
    folder = tmp_path / "program"
    folder.mkdir()
    return Program(folder, run_python)


def test_the_second_run_loads_what_the_first_compiled(program):
    assert program.run() == ("1 1 32", "")
    assert program.run() == ("0 0 32", "")
    assert len(program.files()) == 1


@pytest.mark.parametrize(
    ("module", "old", "new", "result"),
    [
        pytest.param("helper", "value + OFF", "value - OFF", -8, id="a callee in another module"),
        pytest.param("tables", "FACTOR = 2", "FACTOR = 3", 48, id="a constant reached through a module"),
        pytest.param("tables", "[10, 20]", "[11, 20]", 34, id="an array in a third module"),
        pytest.param("tables", "ONE = 1", "ONE = 2", 34, id="a member of an enumeration"),
        pytest.param("helper", "@kernel\n", "@kernel(inline=False)\n", 32, id="how a callee is compiled"),
    ],
)
def test_a_change_anywhere_in_the_call_tree_compiles_again(program, module, old, new, result):
    assert program.run()[0] == "1 1 32"
    program.change(module, old, new)
    assert program.run()[0] == f"1 1 {result}"
    assert program.run()[0] == f"0 0 {result}"
    assert len(program.files()) == 1, "the file of the former version is left over"


def test_a_comment_changes_nothing(program):
    program.run()
    program.change("helper", "@kernel", "# why\n\n@kernel")
    assert program.run()[0] == "0 0 32"


def test_other_types_compile_again(program):
    program.run()
    program.change("entry", "np.zeros(1, np.int64)", "np.zeros(1, np.int32)")
    program.change("main", "np.array([5])", "np.array([5], np.int32)")
    assert program.run()[0] == "1 1 32"
    assert len(program.files()) == 1


def test_the_checked_variant_has_files_of_its_own(program):
    program.run()
    assert program.run(FLOWSHUNT_BOUNDSCHECK="1")[0] == "1 1 32"
    assert program.run()[0] == "0 0 32"
    assert len(program.files()) == 2


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "garbage"])
def test_a_damaged_file_is_compiled_again(program, damage):
    program.run()
    (file,) = program.files()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes({"cut": content[:1000], "empty": b"", "flipped": content, "garbage": b"\x80\x04." * 50}[damage])
    output, complaint = program.run()
    assert output == "1 1 32"
    assert f"damaged compiled kernel {file}" in complaint
    assert program.run() == ("0 0 32", "")


def test_a_directory_that_others_can_write_is_left_alone(program):
    program.run()
    program.cache.chmod(0o777)
    output, complaint = program.run()
    assert output == "1 1 32"
    assert "others can write to it" in complaint
    assert "compile at every start" in complaint


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's directory")
def test_a_directory_of_another_user_is_left_alone(program):
    program.run()
    os.chown(program.cache, 12345, -1)
    output, complaint = program.run()
    assert output == "1 1 32"
    assert "(owner 12345)" in complaint


def test_without_any_directory_it_compiles_at_every_start_and_says_so(program):
    program.cache.write_text("a file in its place")
    for _ in range(2):
        output, complaint = program.run()
        assert output == "1 1 32"
        assert "set FLOWSHUNT_CACHE_DIR" in complaint


def copy_of_the_package(folder: Path, repository: Path) -> Path:
    shutil.copytree(repository / "src", folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def own_cache(source: Path) -> Path:
    return source / "flowshunt" / "__pycache__" / "kernels"


def test_the_package_keeps_kernels_beside_its_code(program, repository, tmp_path):
    source = copy_of_the_package(tmp_path / "installed", repository)
    settings = {"FLOWSHUNT_CACHE_DIR": None, "PYTHONPATH": str(source)}
    assert program.run(**settings)[0] == "1 1 32"
    assert len(list(own_cache(source).iterdir())) == 1
    assert program.run(**settings)[0] == "0 0 32"


def test_a_package_that_cannot_be_written_falls_back_to_the_users_directory(program, repository, tmp_path):
    source = copy_of_the_package(tmp_path / "installed", repository)
    own_cache(source).parent.mkdir()
    own_cache(source).write_text("in the way: root ignores permissions")
    settings = {"FLOWSHUNT_CACHE_DIR": None, "PYTHONPATH": str(source)}
    assert program.run(**settings) == ("1 1 32", "")
    (file,) = (tmp_path / "user-cache" / "flowshunt" / "kernels").glob("*/*.kernel")
    assert stat.S_IMODE(file.parent.stat().st_mode) & 0o022 == 0
    assert program.run(**settings) == ("0 0 32", "")


def test_kernels_that_root_compiled_serve_a_user_who_cannot_write_there(program, repository, tmp_path, monkeypatch):
    source = copy_of_the_package(tmp_path / "installed", repository)
    assert program.run(FLOWSHUNT_CACHE_DIR=None, PYTHONPATH=str(source))[0] == "1 1 32"
    monkeypatch.delenv("FLOWSHUNT_CACHE_DIR", raising=False)
    monkeypatch.setattr("flowshunt.jit.cache.__file__", str(source / "flowshunt" / "jit" / "cache.py"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    monkeypatch.setattr("flowshunt.jit.cache._is_writable", lambda place: place != own_cache(source))
    assert cache_directories()[0] == own_cache(source)
    assert cache_directory() == cache_directories()[1]
    assert cache_directory().is_relative_to(tmp_path / "home")


def test_two_processes_that_compile_at_once_both_succeed(program):
    with ThreadPoolExecutor(2) as pool:
        outputs = [run.result()[0] for run in [pool.submit(program.run) for _ in range(2)]]
    assert {output.split()[2] for output in outputs} == {"32"}
    assert len(program.files()) == 1
    assert program.run()[0] == "0 0 32"


def test_the_chosen_directory_is_the_only_one(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWSHUNT_CACHE_DIR", str(tmp_path / "chosen"))
    assert cache_directories() == [tmp_path / "chosen"]
    assert cache_directory() == tmp_path / "chosen"
