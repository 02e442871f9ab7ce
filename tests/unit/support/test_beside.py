"""What runs beside a test run is waited for, told, and counts."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
_SLOW = """
import time
from pathlib import Path

import pytest

@pytest.fixture(autouse=True)
def thing():
    there = Path(__file__).with_name("there")
    there.touch()
    yield
    there.unlink()

def test_it():
    time.sleep({seconds})
    assert {outcome}
"""
_QUICK = """
import time
from pathlib import Path

def test_it():
    while not Path({there!r}).exists():
        time.sleep(0.02)
    print("begun", flush=True)
    time.sleep({seconds})
"""


def start(folder: Path, *, outcome: bool = True, seconds: tuple[float, float]) -> subprocess.Popen[str]:
    """A run of one quick test, beside it one that takes *seconds*[0] and ends so."""
    for name in ("here", "beside"):
        (folder / name).mkdir()
    (folder / "beside/test_beside.py").write_text(_SLOW.format(seconds=seconds[0], outcome=outcome))
    text = _QUICK.format(there=str(folder / "beside/there"), seconds=seconds[1])
    (folder / "here/test_here.py").write_text(text)
    plugins = [
        word for name in ("tests.support.beside", "tests.support.ending", "no:cacheprovider") for word in ("-p", name)
    ]
    argv = [sys.executable, "-m", "pytest", *plugins, "-s", "--beside", str(folder / "beside"), str(folder / "here")]
    return subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.parametrize(("outcome", "status", "text"), [(True, 0, "1 passed"), (False, 1, "1 failed")])
def test_its_outcome_is_that_of_the_run(tmp_path: Path, outcome: bool, status: int, text: str) -> None:
    with start(tmp_path, outcome=outcome, seconds=(0.5, 0)) as run:
        assert run.stdout is not None
        said = run.stdout.read()
    assert run.returncode == status
    told, _, rest = said.partition("beside: ")[2].rpartition("=====\n")
    assert text in told
    assert rest == ""
    assert "1 passed" in said.splitlines()[-1]


def test_it_ends_with_the_run(tmp_path: Path) -> None:
    with start(tmp_path, seconds=(60, 60)) as run:
        assert run.stdout is not None
        assert any("begun" in line for line in run.stdout)
        run.send_signal(signal.SIGTERM)
        run.stdout.read()
    assert run.returncode == 128 + signal.SIGTERM
    assert not (tmp_path / "beside/there").exists()
