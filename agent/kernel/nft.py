"""nftables through libnftables.so.1 (libnftables(3), libnftables-json(5)): transactions and listings, in this process.

The library is nft's own; a call takes a millisecond where starting the command takes ten.
"""

from __future__ import annotations

import ctypes
import functools
import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from agent.kernel.inside import run_inside
from agent.kernel.tally import Tally
from proto.errors import CaasError, Code

SONAME = "libnftables.so.1"
OUTPUT_HANDLE, OUTPUT_JSON, OUTPUT_TERSE = 1 << 3, 1 << 4, 1 << 11  # nftables/libnftables.h
Command = Mapping[str, Any]


class Nft:
    """The rules of the caller's network namespace, or of *netns*. Safe for several threads."""

    def __init__(self, *, netns: str | None = None, tally: Tally | None = None) -> None:
        self.netns = netns
        self._tally = tally if tally is not None else Tally()
        self._lock = threading.Lock()

    def change(self, commands: Sequence[Command], *, what: str) -> None:
        """All of *commands* in one transaction, or none. FAILED with nft's words, UNSUPPORTED where it is absent."""
        self._tally.add()
        self._run(json.dumps({"nftables": [*commands]}), what)

    def change_by_script(self, script: str, *, what: str) -> None:
        """All commands of *script*, as nft(8) reads them, in one transaction, or none. Raises as `change` does."""
        self._tally.add()
        self._run(script, what)

    def list_table(self, family: str, name: str) -> list[dict[str, Any]]:
        """What is in the table; empty where there is none."""
        tables = self._run(json.dumps({"nftables": [{"list": {"tables": {"family": family}}}]}), "list nft tables")
        if not any(each["table"]["name"] == name for each in tables if "table" in each):
            return []
        command = {"list": {"table": {"family": family, "name": name}}}
        return self._run(json.dumps({"nftables": [command]}), f"list nft table {family} {name}")

    def list_chains(self) -> list[dict[str, Any]]:
        """Every chain of every table, with hook and policy where it has them."""
        return self._run(json.dumps({"nftables": [{"list": {"chains": None}}]}), "list nft chains")

    def list_ruleset(self, family: str) -> list[dict[str, Any]]:
        """Every table of *family* with its chains and rules, without the elements of sets."""
        return self._run(f"list ruleset {family}", f"list nft rules of {family}", flags=OUTPUT_TERSE)

    def list_everything(self) -> list[dict[str, Any]]:
        """Every table of every family with its chains, rules, sets and maps, and the elements of these."""
        return self._run(json.dumps({"nftables": [{"list": {"ruleset": None}}]}), "list nft's ruleset")

    def list_thing(self, kind: str, family: str, table: str, name: str) -> list[dict[str, Any]]:
        """The set, counter, … called *name*; empty where it or its table is not there."""
        listing = self._run(f"list {kind}s {family}", f"list nft {kind}s of {family}", flags=OUTPUT_TERSE)
        if not any(
            (each.get(kind, {}).get("table"), each.get(kind, {}).get("name")) == (table, name) for each in listing
        ):
            return []
        return self._run(f"list {kind} {family} {table} {name}", f"list nft {kind} {name}")

    def try_script(self, script: str, *, what: str) -> None:
        """Let the kernel try *script* and keep nothing of it. Raises as `change` does."""
        self._run(script, what, dry_run=True)

    def _run(self, text: str, what: str, *, flags: int = 0, dry_run: bool = False) -> list[dict[str, Any]]:
        with self._lock:
            status, output, error = run_inside(self.netns, lambda: _run_command(text, flags, dry_run))
        if status:
            raise CaasError(_code(error), f"{what}: {_first_line(error)}", hint=_hint(error))
        return list(json.loads(output)["nftables"]) if output else []


def _run_command(text: str, flags: int, dry_run: bool) -> tuple[int, str, str]:
    library = _libnftables()
    # A context holds a netlink socket of the namespace it was made in: one for each call.
    context = library.nft_ctx_new(0)
    if not context:
        return 1, "", "no context: out of memory"
    try:
        library.nft_ctx_output_set_flags(context, OUTPUT_HANDLE | OUTPUT_JSON | flags)
        library.nft_ctx_set_dry_run(context, dry_run)
        library.nft_ctx_buffer_output(context)
        library.nft_ctx_buffer_error(context)
        status = library.nft_run_cmd_from_buffer(context, text.encode())
        output = library.nft_ctx_get_output_buffer(context) or b""
        error = library.nft_ctx_get_error_buffer(context) or b""
        return status, output.decode(), error.decode()
    finally:
        library.nft_ctx_free(context)


@functools.cache
def _libnftables() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(SONAME)
    except OSError as exc:
        hint = "apt-get install nftables"
        raise CaasError(Code.UNSUPPORTED, f"{SONAME} is not there: {exc}", hint=hint) from exc
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    library.nft_ctx_new.restype, library.nft_ctx_new.argtypes = pointer, (ctypes.c_uint32,)
    library.nft_ctx_free.restype, library.nft_ctx_free.argtypes = None, (pointer,)
    library.nft_ctx_output_set_flags.argtypes = (pointer, ctypes.c_uint)
    library.nft_ctx_set_dry_run.restype, library.nft_ctx_set_dry_run.argtypes = None, (pointer, ctypes.c_bool)
    library.nft_ctx_buffer_output.argtypes = library.nft_ctx_buffer_error.argtypes = (pointer,)
    library.nft_run_cmd_from_buffer.argtypes = (pointer, text)
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).restype, getattr(library, name).argtypes = text, (pointer,)
    return library


def _first_line(error: str) -> str:
    return error.strip().splitlines()[0] if error.strip() else "nft gives no reason"


def _code(error: str) -> Code:
    # libnftables returns a status without an errno; its text is all there is.
    unable = ("Operation not permitted", "Operation not supported", "Protocol not supported")
    return Code.UNSUPPORTED if any(words in error for words in unable) else Code.FAILED


def _hint(error: str) -> str:
    if "Operation not permitted" in error:
        return "run it as root, or with CAP_NET_ADMIN"
    return "modprobe nf_tables; modprobe nft_masq; modprobe nft_chain_nat" if _code(error) is Code.UNSUPPORTED else ""
