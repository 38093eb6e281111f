"""Tables for people at a terminal."""

from collections.abc import Collection, Sequence


def aligned(headings: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str]) -> list[str]:
    """The lines of a table, its columns as wide as they need be: those named in `right` end together, the
    others begin together.
    """
    lines = [headings, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]

    def cell(text: str, column: int) -> str:
        return text.rjust(widths[column]) if headings[column] in right else text.ljust(widths[column])

    return ["  ".join(cell(text, column) for column, text in enumerate(line)).rstrip() for line in lines]
