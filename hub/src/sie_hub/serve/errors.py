"""What goes wrong in serve, as sentences for the operator or for the reader.

SieError
└── StoreError            the database refused or failed; the text is the engine's, in one line
    └── StoreUnusable     the store on disk is not one that this version can open
Refused                   a reader's request that is answered with a status other than 200
"""

from sie_core.errors import SieError


class StoreError(SieError):
    """The database refused a statement or failed in it."""


class StoreUnusable(StoreError):
    """The store on disk is not one that this version can open."""


class Refused(Exception):
    """A request that gets `status` and the line `Error: <text>` instead of a stream of answers."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
