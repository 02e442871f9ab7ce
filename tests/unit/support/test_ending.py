"""A test run that is ended by a signal takes down what its fixtures brought up."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ending import SIGNALS

ROOT = Path(__file__).resolve().parents[3]
_TESTS = """
import pytest, time
from pathlib import Path

@pytest.fixture(scope="session", autouse=True)
def thing():
    there = Path(__file__).with_name("there")
    there.touch()
    yield
    time.sleep(0.3)
    there.unlink()

def test_long():
    print("begun", flush=True)
    time.sleep(60)

def test_never():
    Path(__file__).with_name("went-on").touch()
"""


def test_an_interrupt_is_one_also_where_the_run_was_begun_in_the_background(tmp_path: Path) -> None:
    text = "import signal\n\ndef test_it():\n    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
    (tmp_path / "test_it.py").write_text(text)
    argv = f"{sys.executable} -m pytest -p tests.support.ending -p no:cacheprovider --rootdir {tmp_path} {tmp_path}"
    script = f"trap '' INT; exec {argv}"
    done = subprocess.run(["sh", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("number", SIGNALS)
def test_fixtures_are_torn_down(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "test_it.py").write_text(_TESTS)
    argv = [sys.executable, "-m", "pytest", "-s", "-p", "tests.support.ending", "-p", "no:cacheprovider"]
    with subprocess.Popen(
        [*argv, "--rootdir", tmp_path, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as run:
        assert run.stdout is not None
        assert any("begun" in line for line in run.stdout)
        run.send_signal(number)
        run.send_signal(number)  # a second one does not cut the taking down off
        said = run.stdout.read()
    assert run.returncode == 128 + number
    assert f"ended by {number.name}" in said
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".py" and path.is_file()] == []
