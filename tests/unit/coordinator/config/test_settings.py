"""The configuration file: what it gives files, and each mistake in it with its line."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest

from coordinator.config import ConfigError, Host, Settings, Surroundings, find_settings, load_bytes, load_settings
from coordinator.config.natbox_pair import NatBoxPair
from proto.errors import CaasError

GOOD = """\
agents:
  host1: 192.168.2.25
  far.example.net: 192.168.2.26
localhost: host1
distributions:
  Ubuntu: debian:bookworm
natbox:
  addresses: [192.168.2.24, 192.168.2.23]
  shared: [203.0.113.1/24, 198.51.100.1/28]
"""
ROUTED = """\
name: r
hosts:
  host1: {address: 192.168.2.25}
networks:
  net: {subnet: 10.1.0.0/24, tunnel_to: [192.168.2.26]}
containers:
  one: {host: host1, network: net, roles: [controller, compute]}
"""


def _load(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load_settings(path)


def test_a_good_file(tmp_path: Path) -> None:
    settings = _load(tmp_path, GOOD)
    assert settings == Settings(
        agents={"host1": IPv4Address("192.168.2.25"), "far.example.net": IPv4Address("192.168.2.26")},
        localhost="host1",
        distributions={"ubuntu": "debian:bookworm"},
        natbox=NatBoxPair(
            addresses=(IPv4Address("192.168.2.24"), IPv4Address("192.168.2.23")),
            shared=(IPv4Interface("203.0.113.1/24"), IPv4Interface("198.51.100.1/28")),
        ),
    )
    assert settings.natbox is not None
    assert settings.natbox.has("192.168.2.23")
    assert not settings.natbox.has("192.168.2.2")
    around = settings.surroundings({})
    assert around.localhost == Host(name="host1", address=IPv4Address("192.168.2.25"))
    assert around.agents == {IPv4Address("192.168.2.25"): "host1", IPv4Address("192.168.2.26"): "far.example.net"}


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_an_empty_file_says_nothing(tmp_path: Path, text: str) -> None:
    assert _load(tmp_path, text) == Settings()


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("agent: {}\n", 1, "unknown key 'agent'"),
        ("agents:\n  host1: 192.168.2\n", 2, "no IPv4 address"),
        ("agents:\n  host1: 10.0.0.1\n  host2: 10.0.0.1\n", 3, "10.0.0.1 is host1's already"),
        ("agents:\n  Host_1: 10.0.0.1\n", 2, "Host_1"),
        ("agents:\n  host1: 10.0.0.1\nlocalhost: host2\n", 3, "'host2' is none of the agents"),
        ("distributions:\n  ubuntu: centos:7\n", 2, "no image is made of 'centos:7'"),
        ("distributions: [ubuntu]\n", 1, "found a list"),
        ("natbox: {shared: [203.0.113.1/24]}\n", 1, "'addresses' is missing"),
        ("natbox:\n  addresses: [10.0.0.1]\n  shared: [203.0.113.1/24]\n", 2, "two different ones are needed"),
        ("natbox:\n  addresses: [10.0.0.1, 10.0.0.1]\n  shared: [203.0.113.1/24]\n", 2, "two different ones"),
        ("natbox:\n  addresses: [10.0.0.1, ten]\n  shared: [203.0.113.1/24]\n", 2, "no IPv4 address"),
        ("natbox:\n  addresses: [10.0.0.1, 10.0.0.2]\n  shared: [203.0.113.1]\n", 3, "the prefix length is missing"),
        ("natbox:\n  addresses: [10.0.0.1, 10.0.0.2]\n  shared: [10.0.0.2/24]\n", 3, "where a daemon answers"),
        ("natbox: 10.0.0.1\n", 1, "found"),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, text)
    (problem,) = caught.value.problems
    assert problem.line == line
    assert message in problem.message


def test_a_named_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CaasError, match="No such file"):
        find_settings(tmp_path / "none.yaml")


def test_what_the_call_says_goes_before_what_the_site_says() -> None:
    settings = Settings(distributions={"ubuntu": "debian:bookworm", "centos": "debian:bookworm"})
    found = settings.surroundings({"ubuntu": "debian:trixie"}).distributions
    assert found == {"ubuntu": "debian:trixie", "centos": "debian:bookworm"}


def test_surroundings_survive_json(tmp_path: Path) -> None:
    around = _load(tmp_path, GOOD).surroundings({"centos": "debian:bookworm"})
    assert Surroundings.from_dict(around.to_dict()) == around
    assert Surroundings.from_dict({}) == Surroundings()
    assert Surroundings.from_dict(Surroundings().to_dict()) == Surroundings()


def test_the_far_end_of_a_tunnel_is_called_as_its_agent(tmp_path: Path) -> None:
    around = _load(tmp_path, GOOD).surroundings({})
    file = load_bytes(ROUTED.encode(), file="r.yaml", surroundings=around)
    assert file.hosts["far.example.net"] == Host(
        name="far.example.net", address=IPv4Address("192.168.2.26"), is_peer=True
    )


def test_the_far_end_of_a_tunnel_without_an_agent_is_an_error_where_agents_are_known(tmp_path: Path) -> None:
    around = _load(tmp_path, GOOD.replace("192.168.2.26", "192.168.2.27")).surroundings({})
    with pytest.raises(ConfigError, match="no agent is known") as caught:
        load_bytes(ROUTED.encode(), file="r.yaml", surroundings=around)
    assert caught.value.problems[0].line == 5
    assert "192.168.2.26" in load_bytes(ROUTED.encode(), file="r.yaml").hosts
