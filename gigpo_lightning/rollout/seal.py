"""A checksum inside a Parquet file, by which the file alone shows whether it is as it was written.

Parquet has checksums of its pages, but none of its footer, where a column's type could change unnoticed. Readers find
the footer from the file's end and skip what lies between columns and footer. There is room for a seal::

    columns | seal: word (8 bytes), CRC-32 of all else (4) | footer | its length (4) | "PAR1"
"""

import struct
import zlib
from pathlib import Path

_WORD = b"gigpocrc"
_SEAL = len(_WORD) + 4


def seal(path: Path) -> None:
    """Put the seal into a Parquet file; every tool reads it as before."""
    content = path.read_bytes()
    split = len(content) - _tail(content)
    crc = struct.pack("<I", zlib.crc32(content))
    path.write_bytes(content[:split] + _WORD + crc + content[split:])


def check_seal(path: Path) -> None:
    """Compare a file with its seal; a file without one, such as another tool's, passes.

    Raises:
        ValueError: If a byte of it is not as it was written.
    """
    content = path.read_bytes()
    split = len(content) - _tail(content)
    columns, mark, rest = content[: max(0, split - _SEAL)], content[max(0, split - _SEAL) : split], content[split:]
    if mark.startswith(_WORD) and struct.unpack("<I", mark[len(_WORD) :])[0] != zlib.crc32(rest, zlib.crc32(columns)):
        raise ValueError(f"{path} is damaged: its bytes are not those that were written")


def _tail(content: bytes) -> int:
    """Size of footer, length and magic word; 8 if there is no footer."""
    (length,) = struct.unpack("<I", content[-8:-4]) if len(content) >= 8 else (0,)
    return 8 + length if 8 + length <= len(content) else 8
