"""A Sokoban level: its cells, and its text."""

from dataclasses import dataclass

MOVES = ("up", "down", "left", "right")
SYMBOLS = WALL, FLOOR, TARGET, BOX, BOX_ON_TARGET, PLAYER, PLAYER_ON_TARGET = tuple("#_OX√PS")
_READ = {symbol: symbol for symbol in SYMBOLS} | dict(zip("-.$*@+", SYMBOLS[1:], strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A room with its boxes and the player, before the first move. A cell is ``row * width + column``.

    Attributes:
        width: Cells of a row.
        floor: Whether a cell can be entered, in order; walls close the room all around.
        targets: Cells where boxes belong.
        boxes: Cells with a box, as many as targets.
        player: The player's cell.
    """

    width: int
    floor: tuple[bool, ...]
    targets: frozenset[int]
    boxes: frozenset[int]
    player: int

    @classmethod
    def parse(cls, text: str) -> "Level":
        r"""Read a level's text, one line a row; spaces between symbols may be left out.

        The symbols are those of the observations, ``# _ O X √ P S``, or of collections of levels (XSB),
        ``# - . $ * @ +``, with the floor written as ``-`` or ``_``.

        Raises:
            ValueError: If it is no closed room with one player, and as many boxes as targets, of which one is off.

        Example:
            >>> print(Level.parse("#####\n#@$.#\n#####").text())
            # # # # #
            # P X O #
            # # # # #
        """
        rows = ["".join(row.split()) for row in text.strip().splitlines()]
        cells = "".join(rows)
        unknown = sorted(set(cells) - set(_READ))
        if unknown:
            raise ValueError(f"a level's symbols must be among {' '.join(_READ)}, got {unknown[0]!r} in {text!r}")
        if not rows or {len(row) for row in rows} != {len(rows[0])}:
            raise ValueError(f"a level's rows must be equally long, a symbol for each cell, got {text!r}")
        found = [_READ[symbol] for symbol in cells]
        level = cls(
            width=len(rows[0]),
            floor=tuple(symbol != WALL for symbol in found),
            targets=_cells(found, TARGET, BOX_ON_TARGET, PLAYER_ON_TARGET),
            boxes=_cells(found, BOX, BOX_ON_TARGET),
            player=next(iter(_cells(found, PLAYER, PLAYER_ON_TARGET)), -1),
        )
        level._check(text, len(_cells(found, PLAYER, PLAYER_ON_TARGET)))
        return level

    def _check(self, text: str, num_players: int) -> None:
        last_row = len(self.floor) - self.width
        border = [
            cell
            for cell in range(len(self.floor))
            if cell < self.width or cell >= last_row or cell % self.width in (0, self.width - 1)
        ]
        if any(self.floor[cell] for cell in border):
            raise ValueError(f"a level must be closed by walls all around, got {text!r}")
        if num_players != 1:
            raise ValueError(f"a level must have one player, got {num_players} in {text!r}")
        if len(self.boxes) != len(self.targets) or self.boxes == self.targets:
            raise ValueError(
                f"a level must have as many boxes as targets, and a box off them, got {len(self.boxes)} and "
                f"{len(self.targets)} in {text!r}"
            )

    def steps(self) -> dict[str, int]:
        """How far in the order of cells each move goes."""
        return dict(zip(MOVES, (-self.width, self.width, -1, 1), strict=True))

    def text(self) -> str:
        """The level as its first observation, which ``parse`` reads."""
        symbols = blank_symbols(self)
        put(symbols, self.targets, self.boxes, self.player)
        return "".join(symbols)


def blank_symbols(level: Level) -> list[str]:
    """The observation without boxes and player: the symbol of a cell is at twice its number."""
    symbols: list[str] = []
    for cell, is_floor in enumerate(level.floor):
        symbols.append((TARGET if cell in level.targets else FLOOR) if is_floor else WALL)
        symbols.append("\n" if (cell + 1) % level.width == 0 else " ")
    return symbols[:-1]


def put(symbols: list[str], targets: frozenset[int], boxes: frozenset[int] | set[int], player: int) -> None:
    """Write boxes and player into what ``blank_symbols`` gave."""
    for box in boxes:
        symbols[2 * box] = BOX_ON_TARGET if box in targets else BOX
    symbols[2 * player] = PLAYER_ON_TARGET if player in targets else PLAYER


def _cells(found: list[str], *wanted: str) -> frozenset[int]:
    return frozenset(cell for cell, symbol in enumerate(found) if symbol in wanted)
