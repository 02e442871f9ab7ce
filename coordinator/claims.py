"""Who works on a cluster: one at a time. What people ask for goes before what the coordinator does by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from proto.errors import CaasError, Code


class Claims:
    """The clusters that are worked on now, by name."""

    def __init__(self) -> None:
        self._busy: dict[str, str] = {}
        self._background: dict[str, asyncio.Task[Any]] = {}

    async def take(self, name: str, what: str) -> None:
        """*name* is the caller's from now on, to its release(); what goes on there in the background is ended first.

        BUSY names *what* else is under way.
        """
        self._check(name)
        while (task := self._background.get(name)) is not None:
            task.cancel()
            await asyncio.wait({task})
            self._check(name)
        self._busy[name] = what

    def release(self, name: str) -> None:
        """Let the next one have it."""
        self._busy.pop(name, None)

    async def in_background(self, name: str, work: Coroutine[Any, Any, Any]) -> bool:
        """Do *work* on *name* unless somebody is at it; False where that was so, or somebody came and ended it."""
        if name in self._busy or name in self._background:
            work.close()
            return False
        task = asyncio.create_task(work)
        self._background[name] = task
        task.add_done_callback(lambda ended: self._ended(name, ended))
        try:
            await asyncio.wait({task})
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
        if task.cancelled():
            return False
        task.result()
        return True

    def _ended(self, name: str, task: asyncio.Task[Any]) -> None:
        del self._background[name]
        if not task.cancelled():
            task.exception()  # told by in_background, unless that was ended, too

    def _check(self, name: str) -> None:
        if other := self._busy.get(name):
            raise CaasError(
                Code.BUSY,
                f"{name}: another `caas {other}` of it is under way",
                hint="wait for it, or interrupt it",
            )
