"""The project around the code: packaging, locks, start-up, documents, demo and examples."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
import types
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

import flowshunt

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = [REPOSITORY / "README.md", REPOSITORY / "CHANGELOG.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
FLOW_FILES = sorted((REPOSITORY / "examples" / "flows").glob("*.flows"))
LOCKS = sorted((REPOSITORY / "requirements").glob("*.lock"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    pytest.importorskip("hatchling", reason="hatchling builds the wheel: `make install` brings it")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    (file,) = folder.iterdir()
    return zipfile.ZipFile(file)


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    sources = {str(path.relative_to(REPOSITORY / "src")) for path in (REPOSITORY / "src" / "flowshunt").rglob("*.py")}
    packaged = {name for name in wheel.namelist() if not name.split("/")[0].endswith(".dist-info")}
    assert sources | {"flowshunt/py.typed"} <= packaged
    assert all((REPOSITORY / "src" / name).is_file() for name in packaged)
    assert not [name for name in packaged if "__pycache__" in name]


def test_the_wheel_brings_the_command_the_licence_and_pinned_numba(wheel):
    information = {name.split("/", 1)[1]: name for name in wheel.namelist() if ".dist-info/" in name}
    assert "flowshunt = flowshunt.cli:main" in wheel.read(information["entry_points.txt"]).decode()
    assert "Apache License" in wheel.read(information["licenses/LICENSE"]).decode()
    metadata = message_from_bytes(wheel.read(information["METADATA"]))
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Version"] == flowshunt.__version__
    (numba,) = (line for line in metadata.get_all("Requires-Dist") if line.startswith("numba"))
    assert re.fullmatch(r"numba==\d+\.\d+\.\d+", numba)


def locked(lock: Path) -> dict[str, str]:
    """Requirement lines by name, with their hashes."""
    text = lock.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    return {f"{re.split('[=<>! ]', line)[0]} {line.partition(';')[2].split('--')[0].strip()}": line for line in lines}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_pins_everything_with_hashes_and_names_no_host(lock):
    assert "://" not in lock.read_text()
    for line in locked(lock).values():
        assert re.match(r"[\w.-]+==[\w.]+ ", line)
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", line)


def test_the_locks_agree_with_each_other_and_with_the_project():
    run, dev = (locked(REPOSITORY / "requirements" / f"{name}.lock") for name in ("run", "dev"))
    assert run.items() <= dev.items()
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    names = {name.split()[0] for name in dev}
    for requirement in project["dependencies"] + project["optional-dependencies"]["dev"]:
        assert re.split("[=<>]", requirement)[0] in names
    assert run["numba "].startswith(f"{next(r for r in project['dependencies'] if r.startswith('numba'))} ")


@pytest.mark.parametrize("statement", ["import flowshunt", "from flowshunt.cli import main; main()"])
def test_numba_stays_out_until_a_packet_needs_it(run_python, statement):
    done = run_python("-X", "importtime", "-c", statement, "--help", check="main" not in statement)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "flowshunt" in imported
    assert not {"numba", "llvmlite"} & imported
    if "main" in statement:
        assert done.returncode == 0
        assert "replay" in done.stdout


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_between_documents_lead_somewhere(document):
    for target in re.findall(r"\]\((?!https?://)([^)]*)\)", document.read_text()):
        name, _, anchor = target.partition("#")
        linked = (document.parent / name) if name else document
        assert linked.exists(), f"{document.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_every_decision_is_listed_and_has_its_four_parts():
    folder = REPOSITORY / "docs" / "adr"
    listing = (folder / "README.md").read_text()
    records = sorted(folder.glob("[0-9]*.md"))
    assert [int(record.name[:4]) for record in records] == list(range(1, len(records) + 1))
    for record in records:
        text = record.read_text()
        assert record.name in listing
        headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
        assert headings == ["Context", "Decision", "Consequences", "What would make us change it"]


def test_the_targets_that_the_readme_names_are_there():
    makefile = (REPOSITORY / "Makefile").read_text()
    named = set(re.findall(r"(?:`|^    )make ([a-z-]+)", (REPOSITORY / "README.md").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= named
    assert named <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


def test_the_gate_is_a_sound_script_that_ends_with_the_tests():
    gate = REPOSITORY / ".ci" / "run"
    assert gate.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(gate)], check=True)
    assert gate.read_text().rstrip().endswith("make test")


@pytest.fixture(scope="module")
def make_capture() -> types.ModuleType:
    specification = importlib.util.spec_from_file_location("make_capture", REPOSITORY / "demo" / "make_capture.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_demo_capture_is_whole_small_and_has_valid_checksums(make_capture):
    content = (REPOSITORY / "demo" / "demo.pcap").read_bytes()
    frames = list(make_capture.frames(content))
    assert len(content) < 300_000
    assert 200 <= len(frames) <= 600
    assert all(make_capture.checksums_are_valid(frame) for frame in frames)


@pytest.mark.parametrize("at", [20, 30, 40, 60], ids=["header", "address", "ports", "payload"])
def test_the_check_of_the_demo_capture_notices_a_flipped_bit(make_capture, at):
    content = (REPOSITORY / "demo" / "demo.pcap").read_bytes()
    frame = next(f for f in make_capture.frames(content) if f[12:14] == b"\x08\x00" and len(f) > 60)
    damaged = bytearray(frame)
    damaged[at] ^= 0x04
    assert not make_capture.checksums_are_valid(bytes(damaged))


@pytest.mark.parametrize("file", FLOW_FILES, ids=lambda file: file.name)
def test_an_example_means_the_same_to_ovs_ofctl(file):
    if not shutil.which("ovs-ofctl"):
        pytest.skip("ovs-ofctl is missing: apt-get install openvswitch-common")
    command = ["ovs-ofctl", "-O", "OpenFlow13", "parse-flows", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("OFPT_FLOW_MOD") == number_of_flows(file)


@pytest.mark.parametrize("file", FLOW_FILES, ids=lambda file: file.name)
def test_an_example_loads(file):
    from flowshunt import Switch

    assert Switch().add_flows(file.read_text(), str(file)) == number_of_flows(file)


def number_of_flows(file: Path) -> int:
    return sum(1 for line in file.read_text().splitlines() if line and not line.startswith("#"))


@pytest.mark.needs_jit
def test_the_tour_is_what_the_program_prints(repository: Path) -> None:
    command = [sys.executable, "docs/tour.py", "--check"]
    run = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
