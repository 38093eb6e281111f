"""Blocking calls that may hang on a network, in threads that nobody waits for when the program ends."""

import asyncio
from collections.abc import Callable
from threading import Thread
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def apart(call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """As asyncio.to_thread; but a call that is cancelled may go on, and neither loop nor program waits."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # a call that raises nothing has a result

    def work() -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = call(*arguments, **named)
        except Exception as raised:
            error = raised
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, error)

    Thread(target=work, name=getattr(call, "__name__", "apart"), daemon=True).start()
    return await done
