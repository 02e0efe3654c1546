"""What a command line says on stderr."""

import logging
import os
import sys

_logger = logging.getLogger(__name__)


def log_to_stderr(level: str = "INFO", form: str = "%(message)s") -> None:
    """Say what happens, from a level on that ``GIGPO_LOG_LEVEL`` can change; of some libraries only warnings."""
    logging.basicConfig(level=os.environ.get("GIGPO_LOG_LEVEL", level), format=form, stream=sys.stderr)
    for name in ("httpx", "fsspec", "urllib3", "py4j", "hydra", "hydra_plugins"):
        logging.getLogger(name).setLevel(logging.WARNING)


def say_error(message: str) -> None:
    """Say in one line what a user can mend; called where it is caught, so that the log can say where it was raised."""
    _logger.debug("the whole story:", exc_info=True)
    _logger.error("error: %s\n(GIGPO_LOG_LEVEL=DEBUG shows where it was raised)", message)
