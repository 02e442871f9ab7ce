"""What every ContainerDoor does, LXC's and the fake: the tests of both. A tier derives a class and has fixtures.

`container` makes one that can be started here; `look` shows all that the door keeps in some form of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from agent.core.doors import ContainerDoor
from proto.errors import CaasError, Code
from proto.model import Container, HostEntry

Make = Callable[..., Container]
Look = Callable[[], object]


def seen(door: ContainerDoor) -> list[tuple[Container, bool]]:
    """Every container, and whether it has a process."""
    return [(one.container, one.pid > 0) for one in door.observe()]


class ContainerContract:
    def test_observing_and_repeating_writes_nothing(self, door: ContainerDoor, container: Make, look: Look) -> None:
        one = container()
        assert door.writes == 0
        door.create(one)
        assert seen(door) == [(replace(one, running=False), False)]
        door.start(one)
        assert seen(door) == [(one, True)]
        before, shown = door.writes, look()
        assert before > 0
        door.observe()
        door.start(one)
        door.lacks([one])
        assert (door.writes, look()) == (before, shown)
        door.stop(one)
        assert seen(door) == [(replace(one, running=False), False)]
        after = door.writes
        assert after > before
        door.stop(one)
        assert door.writes == after
        door.delete(one)
        assert seen(door) == []
        gone = door.writes
        assert gone > after
        door.delete(one)
        assert door.writes == gone

    def test_a_running_one_is_deleted(self, door: ContainerDoor, container: Make) -> None:
        one = container()
        door.create(one)
        door.start(one)
        door.delete(one)
        assert seen(door) == []

    @pytest.mark.parametrize("field", ["image", "clone_of", "nic"])
    def test_what_cannot_be_changed_while_it_runs(self, door: ContainerDoor, container: Make, field: str) -> None:
        one = container()
        door.create(one)
        door.start(one)
        values = {"image": "other", "clone_of": "c9", "nic": replace(one.nic, mtu=1400)}
        with pytest.raises(CaasError, match=f"{field} cannot be changed") as failure:
            door.change(one, replace(one, **{field: values[field]}))  # type: ignore[arg-type]
        assert failure.value.code is Code.INVALID
        assert seen(door) == [(one, True)]

    def test_what_is_changed_while_it_runs_and_while_it_does_not(self, door: ContainerDoor, container: Make) -> None:
        one = container()
        entry = HostEntry(address=IPv4Address("10.9.1.2"), names=("c2",))
        door.create(one)
        door.start(one)
        more = replace(one, roles=("api",), hosts=(*one.hosts, entry))
        door.change(one, more)
        assert seen(door) == [(more, True)]
        door.stop(more)
        narrow = replace(more, nic=replace(more.nic, mtu=1400), merge=True)
        door.change(more, narrow)
        assert seen(door) == [(replace(narrow, running=False), False)]
        back = replace(narrow, merge=False)
        door.change(narrow, back)
        door.start(back)
        assert seen(door) == [(back, True)]

    def test_refusals(self, door: ContainerDoor, container: Make) -> None:
        one = container()
        for call in (door.start, door.stop, lambda wanted: door.change(wanted, wanted)):
            with pytest.raises(CaasError, match="does not exist") as failure:
                call(one)
            assert failure.value.code is Code.NOT_FOUND
        with pytest.raises(CaasError, match=r"no container .*c1 to clone") as failure:
            door.create(container(2, clone_of="c1"))
        assert failure.value.code is Code.NOT_FOUND
        door.create(one)
        with pytest.raises(CaasError, match="exists already") as failure:
            door.create(one)
        assert failure.value.code is Code.CONFLICT
        with pytest.raises(CaasError, match=r"image is other") as failure:
            door.create(container(2, clone_of="c1", image="other"))
        assert failure.value.code is Code.CONFLICT
        with pytest.raises(CaasError, match="cannot become") as failure:
            door.change(one, container(2))
        assert failure.value.code is Code.INVALID
        assert seen(door) == [(replace(one, running=False), False)]
