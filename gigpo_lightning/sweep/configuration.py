"""A run's whole configuration, as the command line of ``gigpo fit`` has it."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Sequence


def configured(options: Sequence[str]) -> str:
    """Parse the options of a ``gigpo fit``, make every object of it once, and write the configuration out as YAML.

    It is the command line's own ``--dry_run``: what that refuses is refused here, in the same words.

    Args:
        options: Of ``gigpo fit``.

    Raises:
        ValueError: If it would end with an error.
    """
    from gigpo_lightning import cli  # takes seconds, and the processes of a launcher need none of it

    with _unheard():
        try:
            made = cli.build_cli(["fit", *options, "--dry_run"])
        except cli.MENDABLE as error:
            raise ValueError(cli.what_is_wrong(error)) from error
        config = made.config["fit"].clone()
        for key in ("config", "device_gib", "dry_run", "optimizer_settings"):
            config.pop(key, None)
        text = made._parser("fit").dump(config, skip_unset=False)
        assert isinstance(text, str)
        return text


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """The run itself will say it, in its own log and its own environment."""
    before = dict(os.environ)
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        os.environ.clear()
        os.environ.update(before)
