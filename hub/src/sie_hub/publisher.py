"""Messages on their way into streams, and the answers that say under which sequence they are on disk.

One subscription hears all answers, and one timer gives up those that do not come, because ingest has a
thousand a second under way for hundreds of sensors: a task, a subscription or a timer for each would cost
more than the message.
"""

import asyncio
import json
from collections.abc import Mapping
from typing import Final

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from sie_hub.nats_errors import Unavailable, refusal

LOOK_INTERVAL: Final = 0.25  # seconds between looks at whether the oldest answer is overdue


class Publisher:
    """Publishes by a connection of the library. Any number of publications may be under way at once."""

    def __init__(self, client: Client, timeout: float) -> None:
        self._client = client
        self._timeout = timeout
        self._inbox = ""
        self._count = 0
        self._awaited: dict[str, tuple[asyncio.Future[int], float]] = {}  # by token, the oldest first
        self._looking: asyncio.TimerHandle | None = None

    @property
    def under_way(self) -> int:
        """Publications without an answer so far."""
        return len(self._awaited)

    async def start(self) -> None:
        """Begin to listen for answers. To be called once, when the connection is up."""
        self._inbox = self._client.new_inbox()
        await self._client.subscribe(f"{self._inbox}.*", cb=self._on_answer)

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str]) -> int:
        """Publish to a stream and wait until it is on disk. Returns its sequence in the stream.

        Raises `Fenced` or `Unavailable`.
        """
        loop = asyncio.get_running_loop()
        self._count += 1
        token = str(self._count)
        answer: asyncio.Future[int] = loop.create_future()
        self._awaited[token] = answer, loop.time() + self._timeout
        if self._looking is None:
            self._looking = loop.call_later(LOOK_INTERVAL, self._look)
        try:
            await self._client.publish(subject, data, reply=f"{self._inbox}.{token}", headers=dict(headers))
            return await answer
        except (nats.errors.Error, OSError) as error:
            raise Unavailable(f"nats-server was not reached: {type(error).__name__}") from None
        finally:
            self._awaited.pop(token, None)
            if answer.done() and not answer.cancelled():
                answer.exception()  # looked at, in case the connection was lost before it was awaited

    def give_up(self) -> None:
        """The connection is lost: whatever is under way fails with `Unavailable`."""
        self._fail(
            list(self._awaited), "the connection to nats-server was lost while a request was under way"
        )

    async def _on_answer(self, message: Msg) -> None:
        answer, _ = self._awaited.get(message.subject.rpartition(".")[2], (None, 0.0))
        if answer is None or answer.done():
            return
        try:
            document = json.loads(message.data)
            if "error" in document:
                answer.set_exception(refusal(document["error"]))
            else:
                answer.set_result(int(document["seq"]))
        except (ValueError, KeyError, TypeError):
            # Nobody takes messages of that subject, or not now: an answer without content says so.
            answer.set_exception(Unavailable("nats-server has no stream that takes it"))

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        late = [token for token, (_, until) in self._awaited.items() if until <= now]
        self._fail(late, f"nats-server did not answer within {self._timeout:.0f} s")
        self._looking = loop.call_later(LOOK_INTERVAL, self._look) if self._awaited else None

    def _fail(self, tokens: list[str], sentence: str) -> None:
        for token in tokens:
            answer, _ = self._awaited.pop(token)
            if not answer.done():
                answer.set_exception(Unavailable(sentence))
