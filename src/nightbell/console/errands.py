"""Work that blocks, for pages that must not: each piece in a thread of its own.

The event loop's own pool has a handful of threads. A few commands to a module that hangs would fill it, and the abort would wait
behind them; and the process would wait for them when it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["in_thread"]

T = TypeVar("T")


async def in_thread(work: Callable[..., T], *args: Any, **more: Any) -> T:
    """What `work` returns or raises. A caller that leaves earlier ends only its own waiting."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if answer.done():  # the caller has left
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = work(*args, **more)
        except BaseException as problem:  # noqa: BLE001 - raised again where it is awaited
            error = problem
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name=f"errand {getattr(work, '__name__', '')}", daemon=True).start()
    return await answer
