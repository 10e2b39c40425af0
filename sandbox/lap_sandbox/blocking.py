"""A call that blocks, in a thread, with a deadline.  Knows no engine."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar, cast

import anyio
import anyio.to_thread

T = TypeVar("T")


async def call(work: Callable[[], T], seconds: float, unwanted: Callable[[T], None]) -> T:
    """What `work` returns.  A thread that takes longer is left behind; what it makes when nobody
    waits any more goes to `unwanted`, which blocks as well.

    Raises:
        TimeoutError, and whatever `work` raises.
    """
    made: list[T] = []
    left = False
    handing = threading.Lock()
    """Both sides may find at once that nobody waits."""

    def give_back() -> None:
        with handing:
            results, made[:] = made[:], []
        for result in results:
            unwanted(result)

    def run() -> T:
        result = work()
        made.append(result)
        if left:
            give_back()
        return result

    thread = partial(anyio.to_thread.run_sync, abandon_on_cancel=True)
    try:
        with anyio.fail_after(seconds):
            return await thread(run)
    except BaseException:
        left = True
        if made:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(give_back)
        raise


async def call_lasting(work: Callable[[], T], seconds: float) -> T:
    """As `call`, in a thread for which the end of the program does not wait, and whose result is
    of no use once nobody waits.

    Raises:
        TimeoutError, and whatever `work` raises.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def tell(made: T | None, error: BaseException | None) -> None:
        if outcome.done():  # nobody waits
            return
        if error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(cast("T", made))

    def run() -> None:
        made, error = None, None
        try:
            made = work()
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(tell, made, error)

    threading.Thread(target=run, name="sandbox engine", daemon=True).start()
    with anyio.fail_after(seconds):
        return await outcome


def keep(result: object) -> None:
    """`unwanted` for what needs no end."""
