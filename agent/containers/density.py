"""What makes the pages of a container mergeable (KSM), and whether they are: attributes of its processes.

Both are set on the process that starts the container and inherited by everything in it: PR_SET_MEMORY_MERGE (prctl(2),
since Linux 6.4), and no randomised addresses (personality(2)): pages full of pointers are else equal nowhere.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

PR_SET_MEMORY_MERGE = 67  # linux/prctl.h
ADDR_NO_RANDOMIZE = 0x0040000  # linux/personality.h
_ASK = 0xFFFFFFFF  # personality(2): changes nothing
_PROC = Path("/proc")


def merge_own_pages() -> None:
    """From now on for this process and all that it starts; there is no way back. OSError where the kernel cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_MEMORY_MERGE")
    # A long that would be a sign of an error is a legal persona: only -1 is one.
    before = libc.personality(ctypes.c_ulong(_ASK))
    if before == -1 or libc.personality(ctypes.c_ulong((before & _ASK) | ADDR_NO_RANDOMIZE)) == -1:
        raise OSError(ctypes.get_errno(), "personality")


def is_merging(pid: int, *, proc: Path = _PROC) -> bool:
    """Whether process *pid* has what merge_own_pages sets (proc(5): personality, ksm_stat). False where it ended."""
    try:
        persona = int((proc / str(pid) / "personality").read_text(), 16)
        stat = (proc / str(pid) / "ksm_stat").read_text()
    except OSError:
        return False
    # A kernel that does not say ksm_merge_any has no other way to ask for another process.
    return bool(persona & ADDR_NO_RANDOMIZE) and "ksm_merge_any: no" not in stat
