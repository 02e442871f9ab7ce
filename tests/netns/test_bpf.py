"""The loader: programs, maps by bytes, filters, and finding all of it again from the id of what is attached."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.kernel import filters
from agent.kernel.bpf import UPDATE_NEW, BpfMap, BpfObject, adopt_maps, check_layout, map_ids
from agent.kernel.filters import Direction
from agent.kernel.netlink import KernelError, Netlink
from agent.kernel.tally import Tally
from proto.errors import CaasError, Code
from tests.support.netns import Site, poll_until, run

SOURCE = """
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 8); __type(key, __u32); __type(value, __u64); }
  a_map_with_a_long_name SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 3); __type(key, __u32); __type(value, __u32); }
  list SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERCPU_HASH); __uint(max_entries, 8); __type(key, __u32); __type(value, __u32); }
  counts SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_LPM_TRIE); __uint(max_entries, 8); __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, __u64); __type(value, __u32); } trie SEC(".maps");
static volatile int hidden = 1;
SEC("tc") int first(struct __sk_buff *skb) {
  __u64 key = 1; __u64 *found = bpf_map_lookup_elem(&a_map_with_a_long_name, &key);
  bpf_map_lookup_elem(&list, &key); bpf_map_lookup_elem(&counts, &key); bpf_map_lookup_elem(&trie, &key);
  return found && hidden ? TC_ACT_SHOT : TC_ACT_OK; }
SEC("tc") int second(struct __sk_buff *skb) { return TC_ACT_OK; }
char LICENSE[] SEC("license") = "GPL";
"""
BAD = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("tc") int first(struct __sk_buff *skb) { return *(int *)(long)skb->data; }
char LICENSE[] SEC("license") = "GPL";
"""


def compiled(folder: Path, text: str) -> Path:
    assert shutil.which("clang"), "clang is not there: apt-get install clang"
    (folder / "t.bpf.c").write_text(text)
    target = folder / "t.bpf.o"
    arch = next(Path("/usr/include").glob("*-linux-gnu/asm"))
    command = ["clang", "-O2", "-g", "-target", "bpf", f"-I{arch.parent}", "-c", str(folder / "t.bpf.c")]
    subprocess.run([*command, "-o", str(target)], check=True, timeout=60)
    return target


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("bpf"), SOURCE)


@pytest.fixture
def loaded(path: Path) -> Iterator[BpfObject]:
    with BpfObject(path) as opened:
        yield opened


def u32(value: int) -> bytes:
    return struct.pack("=I", value)


def u64(value: int) -> bytes:
    return struct.pack("=Q", value)


def test_programs_and_maps_are_by_their_names_and_internal_ones_are_left_out(loaded: BpfObject) -> None:
    assert set(loaded.programs) == {"first", "second"}
    assert set(loaded.maps) == {"a_map_with_a_long_name", "list", "counts", "trie"}
    table = loaded.maps["a_map_with_a_long_name"]
    assert (table.key_size, table.value_size, table.max_entries, table.name) == (4, 8, 8, "a_map_with_a_lo")
    assert check_layout({table.name: table}, [("a_map_with_a_long_name", 4, 8)])
    assert not check_layout({table.name: table}, [("a_map_with_a_long_name", 4, 4)])
    assert not check_layout({}, [("list", 4, 4)])


def test_entries_come_and_go(loaded: BpfObject) -> None:
    table = loaded.maps["a_map_with_a_long_name"]
    assert table.lookup(u32(1)) is None
    table.update(u32(1), u64(7))
    assert table.lookup(u32(1)) == u64(7)
    with pytest.raises(CaasError) as caught:
        table.update(u32(1), u64(8), flags=UPDATE_NEW)
    assert caught.value.code is Code.CONFLICT
    table.update_many({u32(n): u64(n) for n in range(2, 9)})
    assert dict(table.items()) == {u32(1): u64(7)} | {u32(n): u64(n) for n in range(2, 9)}
    assert set(table.keys()) == {u32(n) for n in range(1, 9)}
    with pytest.raises(CaasError, match=r"it is full \(8 entries\)") as caught:
        table.update(u32(9), u64(9))
    assert caught.value.code is Code.NO_ROOM
    with pytest.raises(CaasError) as caught:
        table.update_many({u32(n): u64(n) for n in range(10, 13)})
    assert caught.value.code is Code.NO_ROOM
    assert table.delete(u32(1))
    assert not table.delete(u32(1))
    assert len(table.items()) == 7


def test_keys_and_values_of_a_wrong_size_are_refused(loaded: BpfObject) -> None:
    table = loaded.maps["a_map_with_a_long_name"]
    for call in (lambda: table.lookup(b"abc"), lambda: table.update(u32(1), u32(1)), lambda: table.delete(u64(1))):
        with pytest.raises(ValueError, match="bytes, not"):
            call()


def test_arrays_tries_and_values_of_each_cpu(loaded: BpfObject) -> None:
    assert loaded.maps["list"].items() == [(u32(n), u32(0)) for n in range(3)]
    trie = loaded.maps["trie"]
    trie.update(u32(24) + bytes((10, 0, 0, 0)), u32(5))
    assert trie.items() == [(u32(24) + bytes((10, 0, 0, 0)), u32(5))]
    assert trie.lookup(u32(32) + bytes((10, 0, 0, 9))) == u32(5)
    counts = loaded.maps["counts"]
    assert counts.cpus >= 1
    value = b"".join(u64(n) for n in range(counts.cpus))
    assert len(value) == counts.value_size
    counts.update(u32(1), value)
    assert counts.lookup(u32(1)) == value
    assert counts.items() == [(u32(1), value)]


def test_a_large_map_is_read_in_pieces(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.kernel.bpf._ENTRIES_AT_ONCE", 512)
    with BpfObject(path, sizes={"a_map_with_a_long_name": 5000}) as loaded:
        table = loaded.maps["a_map_with_a_long_name"]
        entries = {u32(n): u64(n) for n in range(3000)}
        table.update_many(entries)
        assert dict(table.items()) == entries


def test_filters_are_replaced_listed_and_detached(site: Site, loaded: BpfObject) -> None:
    with Netlink(netns=site.host) as connection:
        index = json.loads(run("ip -json link show eth1", netns=site.host))[0]["ifindex"]
        assert filters.list_attached(connection, index) == []
        for name in ("first", "second", "second"):
            program = loaded.programs[name]
            filters.attach(connection, index, Direction.INGRESS, program, priority=9, handle=3, name=f"n-{name}")
        filters.attach(connection, index, Direction.EGRESS, loaded.programs["first"], priority=1)
        seen = filters.list_attached(connection, index)
        assert [(each.direction, each.priority, each.handle, each.name) for each in seen] == [
            (Direction.INGRESS, 9, 3, "n-second"),
            (Direction.EGRESS, 1, 1, "first"),
        ]
        assert [each.program_id for each in seen] == [loaded.programs[name].id for name in ("second", "first")]
        text = run("tc filter show dev eth1 ingress", netns=site.host)
        assert text.count("n-second direct-action") == 1
        assert "n-first" not in text
        assert filters.detach(connection, index, Direction.INGRESS, priority=9, handle=3)
        assert not filters.detach(connection, index, Direction.INGRESS, priority=9, handle=3)
        assert filters.list_places(connection, index)
        assert filters.remove_clsact(connection, index)
        assert not filters.remove_clsact(connection, index)
        assert filters.list_attached(connection, index) == filters.list_attached(connection, 9999) == []
        with pytest.raises(ValueError, match="priority"):
            filters.attach(connection, index, Direction.INGRESS, loaded.programs["first"], priority=0)


def test_the_last_filter_takes_the_qdisc_with_it_in_one_request(site: Site, loaded: BpfObject) -> None:
    places = {Direction.INGRESS: 9, Direction.EGRESS: 1}
    with Netlink(netns=site.host) as connection:
        index = json.loads(run("ip -json link show eth1", netns=site.host))[0]["ifindex"]
        for direction, priority in places.items():
            filters.attach(connection, index, direction, loaded.programs["first"], priority=priority)
        for direction, priority in places.items():
            assert filters.has_clsact(connection, index)
            writes = connection.tally.writes
            filters.detach_last(connection, index, direction, priority=priority)
            assert connection.tally.writes == writes + 1
        assert not filters.has_clsact(connection, index)
        filters.detach_last(connection, index, Direction.INGRESS, priority=9)


def test_an_ingress_qdisc_in_clsacts_place_is_an_error(site: Site, loaded: BpfObject) -> None:
    run("tc qdisc add dev eth1 ingress", netns=site.host)
    with Netlink(netns=site.host) as connection:
        index = json.loads(run("ip -json link show eth1", netns=site.host))[0]["ifindex"]
        assert not filters.has_clsact(connection, index)
        with pytest.raises(KernelError):
            filters.attach(connection, index, Direction.EGRESS, loaded.programs["first"], priority=1)


def test_maps_are_found_again_after_the_object_is_closed_and_go_into_a_new_program(site: Site, path: Path) -> None:
    with Netlink(netns=site.host) as connection:
        index = json.loads(run("ip -json link show eth1", netns=site.host))[0]["ifindex"]
        with BpfObject(path) as loaded:
            loaded.maps["a_map_with_a_long_name"].update(u32(5), u64(55))
            filters.attach(connection, index, Direction.INGRESS, loaded.programs["first"], priority=1)
        (seen,) = filters.list_attached(connection, index)
        found = adopt_maps(seen.program_id)
        assert set(found) == {"a_map_with_a_lo", "list", "counts", "trie"}
        assert {each.id for each in found.values()} <= map_ids(seen.program_id)
        old = found["a_map_with_a_lo"]
        assert old.lookup(u32(5)) == u64(55)
        with BpfObject(path, reuse={"a_map_with_a_long_name": old}) as again:
            new = again.maps["a_map_with_a_long_name"]
            assert new.id == old.id
            old.update(u32(6), u64(66))
            assert dict(new.items()) == {u32(5): u64(55), u32(6): u64(66)}
        for each in found.values():
            each.close()
        filters.remove_clsact(connection, index)
        # The kernel frees a program when all processors have left it.
        assert poll_until(lambda: code_of(seen.program_id), deadline=5) is Code.NOT_FOUND


def code_of(program_id: int) -> Code | None:
    try:
        for each in adopt_maps(program_id).values():
            each.close()
    except CaasError as exc:
        return exc.code
    return None


def test_what_cannot_be_loaded_is_explained(path: Path, tmp_path: Path, loaded: BpfObject) -> None:
    with pytest.raises(CaasError, match="not compiled") as caught:
        BpfObject(tmp_path / "none.o")
    assert (caught.value.code, caught.value.hint) == (Code.NOT_FOUND, "make bpf")
    with pytest.raises(CaasError, match="invalid access to packet") as caught:
        BpfObject(compiled(tmp_path, BAD))
    assert caught.value.code is Code.UNSUPPORTED
    (tmp_path / "text.o").write_text("no object")
    with pytest.raises(CaasError) as caught:
        BpfObject(tmp_path / "text.o")
    assert caught.value.code is Code.UNSUPPORTED
    with pytest.raises(CaasError, match="has no map nowhere"):
        BpfObject(path, sizes={"nowhere": 1})
    with pytest.raises(CaasError, match="map list has another shape"):
        BpfObject(path, reuse={"list": loaded.maps["a_map_with_a_long_name"]})


def test_changing_calls_are_counted_and_looking_is_not(path: Path) -> None:
    tally = Tally()
    with BpfObject(path, tally=tally) as loaded:
        assert tally.writes == 1
        table: BpfMap = loaded.maps["a_map_with_a_long_name"]
        table.items(), table.lookup(u32(1)), list(table.keys())
        assert tally.writes == 1
        table.update(u32(1), u64(1))
        table.delete(u32(1))
        assert tally.writes == 3
