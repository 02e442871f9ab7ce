"""Names, marks, errors: small promises that everything leans on."""

from __future__ import annotations

import pickle

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto import generate
from proto.errors import CaasError, Code
from proto.marks import Mark, parse_mark
from proto.model import HostState, check_vid
from proto.names import check_cluster_name, check_hostname, check_ifname, make_link_name, make_port_name
from proto.transport.failures import STATUS
from tests.support.things import make_bridge

printable = st.text(st.characters(codec="ascii", exclude_categories=["C"]), min_size=1, max_size=60)
label = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", fullmatch=True)


@given(label, label)
def test_a_link_name_fits_and_is_valid(cluster: str, container: str) -> None:
    name = make_port_name(cluster, container)
    assert check_ifname(name) == name
    assert len(f"{cluster}.{container}") > 15 or name == f"{cluster}.{container}"


@given(st.lists(st.text("ab-", min_size=16, max_size=40), unique=True, min_size=2, max_size=50))
def test_long_names_do_not_become_one(names: list[str]) -> None:
    assert len({make_link_name(name, kind="veth") for name in names}) == len(names)


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a/b", "a:b", "x" * 16, "a%d", "a\nb"])
def test_names_the_kernel_would_not_take(name: str) -> None:
    with pytest.raises(CaasError):
        check_ifname(name)


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a.b", "a_b", "x" * 64, "ä"])
def test_host_names_that_are_none(name: str) -> None:
    with pytest.raises(CaasError):
        check_hostname(name)
    with pytest.raises(CaasError):
        check_cluster_name(name)


def test_no_cluster_is_called_as_the_mark_of_what_clusters_share() -> None:
    with pytest.raises(CaasError, match="host"):
        check_cluster_name("host")


@pytest.mark.parametrize("vid", [-1, 0, 4095, 4096])
def test_vids_out_of_range_name_the_value_and_the_range(vid: int) -> None:
    with pytest.raises(CaasError, match=rf"{vid}.*1\.\.4094"):
        check_vid(vid)


@given(
    st.from_regex(r"[a-z]{1,9}", fullmatch=True),
    st.text(st.characters(codec="ascii", exclude_categories=["C"]), min_size=1, max_size=60),
)
def test_a_mark_can_be_read_back(cluster: str, thing: str) -> None:
    assert parse_mark(str(Mark(cluster, thing))) == Mark(cluster, thing)


@pytest.mark.parametrize("text", [None, "", "caas", "caas:", "caas:demo", "caas:demo:", "caas::x", "x:caas:demo:y"])
def test_what_is_no_mark_of_ours(text: str | None) -> None:
    assert parse_mark(text) is None


@pytest.mark.parametrize("code", list(Code))
def test_every_code_has_a_status_and_survives_pickling(code: Code) -> None:
    assert isinstance(STATUS[code], grpc.StatusCode)
    error = CaasError(code, "m", hint="h")
    assert pickle.loads(pickle.dumps(error)) == error
    assert code.exit_status == (2 if code.value in ("invalid", "refused") else 1)


def test_names_are_unique_within_a_kind() -> None:
    with pytest.raises(CaasError, match="lxcbr100"):
        HostState(links=(make_bridge(), make_bridge(mtu=1400)))


def test_the_generated_stubs_are_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["generate", "--check"])
    assert generate.main() == 0
