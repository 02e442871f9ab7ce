"""errno becomes a code in one place; what is not known there stays what it was."""

from __future__ import annotations

import errno
import logging

import pytest

from agent.kernel.errors import kernel_errors, take_back
from agent.kernel.netlink import KernelError
from proto.errors import CaasError, Code


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.EEXIST, Code.CONFLICT),
        (errno.ENODEV, Code.NOT_FOUND),
        (errno.EOPNOTSUPP, Code.UNSUPPORTED),
        (errno.EPERM, Code.UNSUPPORTED),
        (errno.EBUSY, Code.BUSY),
        (errno.ENOSPC, Code.NO_ROOM),
        (errno.EINVAL, Code.FAILED),
    ],
)
def test_known_numbers_have_a_code_and_name_the_object(number: int, code: Code) -> None:
    with (
        pytest.raises(CaasError, match=r"create vlan eth1\.100: the kernel's words") as caught,
        kernel_errors("create vlan eth1.100"),
    ):
        raise KernelError(number, "the kernel's words")
    assert caught.value.code is code
    assert isinstance(caught.value.__cause__, KernelError)


def test_missing_privilege_has_a_hint() -> None:
    with pytest.raises(CaasError) as caught, kernel_errors("x"):
        raise KernelError(errno.EPERM, "no")
    assert "CAP_NET_ADMIN" in caught.value.hint


def test_a_given_hint_is_kept() -> None:
    with pytest.raises(CaasError) as caught, kernel_errors("x", hint="modprobe 8021q"):
        raise KernelError(errno.EOPNOTSUPP, "no")
    assert caught.value.hint == "modprobe 8021q"


def test_unknown_numbers_and_other_errors_pass() -> None:
    with pytest.raises(KernelError), kernel_errors("x"):
        raise KernelError(errno.EDOM, "what?")
    with pytest.raises(CaasError, match="mine"), kernel_errors("x"):
        raise CaasError(Code.INVALID, "mine")


def test_taking_back_never_raises_what_the_kernel_says_but_logs_it(caplog: pytest.LogCaptureFixture) -> None:
    def fail(name: str) -> None:
        raise KernelError(errno.EBUSY, f"{name} is busy")

    with caplog.at_level(logging.WARNING):
        take_back(fail, "eth1.100")
    assert "eth1.100 is busy" in caplog.text

    def wrong() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        take_back(wrong)
