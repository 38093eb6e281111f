"""How much may wait in memory to be stored, over all sessions together."""

import asyncio


class Budget:
    """Octets that wait in all sessions. It is a brake, not a bound: what has been read is let in."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._room = asyncio.Event()
        self._room.set()

    @property
    def taken(self) -> int:
        """Octets that wait now."""
        return self._taken

    @property
    def exceeded(self) -> bool:
        """Whether more waits than should."""
        return self._taken > self._limit

    def take(self, octets: int) -> None:
        """So much more waits."""
        self._taken += octets
        if self.exceeded:
            self._room.clear()

    def give_back(self, octets: int) -> None:
        """So much less waits."""
        self._taken -= octets
        if not self.exceeded:
            self._room.set()

    async def room(self) -> None:
        """Return when there is room for more."""
        await self._room.wait()
