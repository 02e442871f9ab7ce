"""Runs steps as soon as what they need is done. What is done already is skipped; what was run is looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, MutableMapping, Sequence
from typing import TypeGuard

from coordinator.progress import Progress, PutOff
from coordinator.steps import Step, make_waves
from proto.errors import CaasError, Code


async def pending_steps(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps that are not done, or that need one that is not: what `run_steps` would look at and maybe run."""
    looks = await asyncio.gather(*(_is_done(step) for step in steps))
    done = dict(zip((step.id for step in steps), looks, strict=True))
    return tuple(step for step in steps if not done[step.id])


async def _is_done(step: Step) -> bool:
    """False also where it cannot be seen: its container is not there, or does not run."""
    try:
        return await step.done()
    except CaasError as exc:
        if exc.code in (Code.NOT_FOUND, Code.FAILED):
            return False
        raise


async def run_steps(
    steps: Sequence[Step],
    progress: Progress,
    *,
    done: Collection[str] = (),
    left: MutableMapping[str, str] | None = None,
) -> tuple[str, ...]:
    """Bring every step to done; returns the ids of those that had to run. *done* are looked at and not told again.

    With *left*, a step whose container's host goes away is no failure: its id gets into it, with the words, and those
    of all steps that need it, which are not begun.

    The first failure is raised after the steps under way have ended; nothing new is begun after it. A step
    whose run() ended well and whose done() still says no is UNVERIFIED.
    """
    make_waves(steps)  # refuses cycles and unknown needs before anything runs
    return await _Run(steps, progress, done, left).finish()


class _Run:
    """One run of steps; each is a task that waits for those it needs."""

    def __init__(
        self, steps: Sequence[Step], progress: Progress, done: Collection[str], left: MutableMapping[str, str] | None
    ) -> None:
        self._steps, self._progress, self._done = steps, progress, done
        self._may_lose = left is not None
        self._lost: MutableMapping[str, str] = {} if left is None else left
        self._finished: dict[str, asyncio.Event] = {step.id: asyncio.Event() for step in steps}
        self._failed = asyncio.Event()
        self._ran: list[str] = []

    async def finish(self) -> tuple[str, ...]:
        """The ids of those that had to run; raises the first failure when all have ended."""
        tasks = [asyncio.create_task(self._bring(step), name=step.id) for step in self._steps]
        try:
            results = await asyncio.gather(*tasks, return_exceptions=True)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return tuple(self._ran)

    async def _bring(self, step: Step) -> None:
        try:
            for need in step.needs:
                await self._finished[need].wait()
            if self._failed.is_set():
                return
            if waits := [self._lost[need] for need in step.needs if need in self._lost]:
                self._lost[step.id] = waits[0]
            elif not await _is_done(step):
                await self._run(step)
            elif step.id not in self._done:
                self._progress.skipped(step.id, step.title)
        except BaseException as exc:
            if not self._is_loss(exc):
                self._failed.set()
                raise
            self._lost[step.id] = exc.message
        finally:
            self._finished[step.id].set()

    async def _run(self, step: Step) -> None:
        async with self._progress.step(step.id, step.title):
            try:
                await step.run()
                is_done = await step.done()
            except CaasError as exc:
                if not self._is_loss(exc):
                    raise
                self._lost[step.id] = exc.message
                raise PutOff(exc.message) from exc
            if not is_done:
                raise CaasError(
                    Code.UNVERIFIED,
                    f"{step.id}: it ran, and is still not done",
                    hint=f"`caas logs {self._progress.cluster}` shows what its container says",
                )
            self._ran.append(step.id)

    def _is_loss(self, failure: BaseException) -> TypeGuard[CaasError]:
        """Whether the step's host has gone away, and that is no failure."""
        return self._may_lose and isinstance(failure, CaasError) and failure.code is Code.UNREACHABLE
