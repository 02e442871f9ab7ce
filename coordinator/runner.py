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
    finished: dict[str, asyncio.Event] = {step.id: asyncio.Event() for step in steps}
    failed = asyncio.Event()
    ran: list[str] = []
    lost = left if left is not None else {}

    def is_lost(failure: BaseException) -> TypeGuard[CaasError]:
        return left is not None and isinstance(failure, CaasError) and failure.code is Code.UNREACHABLE

    async def run(step: Step) -> None:
        async with progress.step(step.id, step.title):
            try:
                await _run(step, progress)
            except CaasError as exc:
                if not is_lost(exc):
                    raise
                lost[step.id] = exc.message
                raise PutOff(exc.message) from exc
            ran.append(step.id)

    async def bring(step: Step) -> None:
        try:
            for need in step.needs:
                await finished[need].wait()
            if failed.is_set():
                return
            if waits := [lost[need] for need in step.needs if need in lost]:
                lost[step.id] = waits[0]
            elif not await _is_done(step):
                await run(step)
            elif step.id not in done:
                progress.skipped(step.id, step.title)
        except BaseException as exc:
            if not is_lost(exc):
                failed.set()
                raise
            lost[step.id] = exc.message
        finally:
            finished[step.id].set()

    tasks = [asyncio.create_task(bring(step), name=step.id) for step in steps]
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
    return tuple(ran)


async def _run(step: Step, progress: Progress) -> None:
    await step.run()
    if not await step.done():
        raise CaasError(
            Code.UNVERIFIED,
            f"{step.id}: it ran, and is still not done",
            hint=f"`caas logs {progress.cluster}` shows what its container says",
        )
