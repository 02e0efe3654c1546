"""The tags that a reply's search or answer stands between."""

import re

SEARCH, ANSWER = "search", "answer"


def blocks(text: str, tag: str) -> list[str]:
    """What stands between each opening tag and the next closing one, stripped; in upper or lower case.

    Example:
        >>> blocks("<search> a </search> <Search>b</SEARCH> <search>c", "search")
        ['a', 'b']
    """
    opening, closing = re.compile(f"<{tag}>", re.IGNORECASE), re.compile(f"</{tag}>", re.IGNORECASE)
    found: list[str] = []
    place = 0
    # Two searches a block: one expression for both would look to the end of the text from every tag left open.
    while (start := opening.search(text, place)) and (end := closing.search(text, start.end())):
        found.append(text[start.end() : end.start()].strip())
        place = end.end()
    return found
