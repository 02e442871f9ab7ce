"""One job for many: whoever asks while a job is under way is in the next one, with all the others who do.

Sixty computes that come up within a minute would otherwise be sixty programs in the controller's container, each
asking nova over and over: enough to keep it from answering any of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

Work = Callable[[tuple[str, ...]], Awaitable[Mapping[str, Any]]]


class Batches:
    """Runs *work* for the items that are asked about, at most *most* at a time, one batch after the other.

    *work* is given items and gives an answer for each, or raises for all of them.
    """

    def __init__(self, work: Work, *, most: int) -> None:
        self._work = work
        self._most = most
        self._turn = asyncio.Lock()
        self._waiting: dict[str, asyncio.Future[Any]] = {}

    async def ask(self, item: str) -> Any:
        """The answer about *item*; raises what its batch raised."""
        answer = self._waiting.setdefault(item, asyncio.get_running_loop().create_future())
        while not answer.done():
            async with self._turn:
                if not answer.done():
                    await self._run()
        return answer.result()

    async def _run(self) -> None:
        """One batch. Where whoever runs it is cancelled, the others of it go on waiting."""
        batch = tuple(self._waiting)[: self._most]
        try:
            answers = await self._work(batch)
        except Exception as exc:
            for item in batch:
                self._waiting.pop(item).set_exception(exc)
            return
        for item in batch:
            self._waiting.pop(item).set_result(answers[item])
