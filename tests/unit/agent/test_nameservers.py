"""Which of the host's name servers a container can ask."""

from __future__ import annotations

from pathlib import Path

from agent.nameservers import parse_nameservers, read_nameservers


def test_what_only_the_host_reaches_is_left_out() -> None:
    text = "# c\nnameserver 127.0.0.53\nnameserver 0.0.0.0\nnameserver fe80::1\nnameserver 10.0.0.2 # x\nsearch a\n"
    assert parse_nameservers(text) == ("10.0.0.2",)
    assert parse_nameservers("nameserver\nnameserver x\n") == ()


def test_three_are_taken_each_once() -> None:
    text = "".join(f"nameserver 10.0.0.{number}\n" for number in (1, 1, 2, 3, 4))
    assert parse_nameservers(text) == ("10.0.0.1", "10.0.0.2", "10.0.0.3")


def test_the_first_file_that_is_there_counts(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert read_nameservers((first, second)) == ()
    second.write_text("nameserver 10.0.0.2\n")
    assert read_nameservers((first, second)) == ("10.0.0.2",)
    first.write_text("nameserver 10.0.0.1\n")
    assert read_nameservers((first, second)) == ("10.0.0.1",)
