"""The fakes keep the contracts of the real doors: the same tests run in tests/netns and tests/lxc."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from proto.model import Container
from tests.support.container_contract import ContainerContract
from tests.support.container_contract import Look as LookAtContainers
from tests.support.fakes import FakeContainers, FakeKernel
from tests.support.kernel_contract import KernelContract, Look, Plug
from tests.support.things import TRUNK
from tests.support.things import make_container as make


class TestFakeKernel(KernelContract):
    @pytest.fixture
    def door(self) -> FakeKernel:
        kernel = FakeKernel(foreign=[TRUNK])
        kernel.has_ports = True
        return kernel

    @pytest.fixture
    def look(self, door: FakeKernel) -> Look:
        return lambda: (dict(door.things), dict(door.foreign), set(door.marked))

    @pytest.fixture
    def plug(self, door: FakeKernel) -> Plug:
        return lambda container: door.add_port(container.nic)


class TestFakeContainers(ContainerContract):
    @pytest.fixture
    def door(self) -> FakeContainers:
        return FakeContainers()

    @pytest.fixture
    def container(self) -> Callable[..., Container]:
        return lambda number=1, **changes: replace(make(f"c{number}", number=number), **changes)

    @pytest.fixture
    def look(self, door: FakeContainers) -> LookAtContainers:
        return lambda: dict(door.containers)
