"""Where our servers listen: who can reach an address, and whether it is free."""

import ipaddress
import socket


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, at an address that no other can reach."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_free(host: str, port: int) -> None:
    """Refuse an address that a server cannot listen on, before the server loads what it serves.

    Args:
        host: Name or address; empty for every address of this machine.
        port: 0 leaves the choice to the system.

    Raises:
        ValueError: If the address is not this machine's, or another process listens on the port.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"--port must be in [0, 65535], got {host}:{port}")
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that have just ended do not count
            trial.bind(address)
            trial.listen()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(
            f"--host and --port must be an address that nobody listens on, got {host}:{port} ({reason})"
        ) from error
