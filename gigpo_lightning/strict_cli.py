"""A LightningCLI that reads strictly, and names the full key of what it refuses."""

import re
import sys
from argparse import ArgumentError
from collections.abc import Callable
from functools import partial
from typing import Any

import jsonargparse
from docstring_parser import DocstringStyle
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, _InstantiatorFn

from gigpo_lightning.complaints import constructor_complaint, find_key
from gigpo_lightning.config_action import add_config_option, no_section, refuse_nothing, with_near_words
from gigpo_lightning.errors import RunError

# What a user can mend; anything else is a defect of ours, and its traceback is wanted.
MENDABLE = (ValueError, ImportError, OSError, FloatingPointError, ArgumentError, MisconfigurationException, RunError)

# argparse takes -1e-3, and any other number of a form that it does not know, for an option.
_NEGATIVE_NUMBER = re.compile(r"^-(?:(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|\.?inf)$", re.IGNORECASE)

# What a constructor may raise where its arguments are to blame.
REFUSED = (TypeError, ArithmeticError, LookupError, AttributeError, RuntimeError, AssertionError, *MENDABLE)


class StrictCLI(LightningCLI):
    """LightningCLI whose mistakes end in one line."""

    def __init__(self, args: Any = None, **kwargs: Any) -> None:
        words = sys.argv[1:] if args is None else args
        # Descriptions below a dataclass's fields are read from its source, for a second; only help shows them. Another
        # half a second goes where each docstring is read in every style.
        helps = isinstance(words, list) and any("help" in word for word in words)
        jsonargparse.set_parsing_settings(
            docstring_parse_style=DocstringStyle.GOOGLE, docstring_parse_attribute_docstrings=helps
        )
        super().__init__(args=args, **kwargs)

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Have mistakes raised, not answered with two screens of usage before the one line that says what is wrong."""
        # A key is written out: argparse would take its beginning for it, and so some misspelt ones.
        parser = LightningArgumentParser(**{"exit_on_error": False, "allow_abbrev": False} | kwargs)
        parser._negative_number_matcher = _NEGATIVE_NUMBER
        add_config_option(parser)
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse them, and refuse keys that are left empty.

        Raises:
            ValueError: If there are some.
        """
        try:
            super().parse_arguments(parser, args)
        except ArgumentError as error:
            raise ArgumentError(None, with_near_words(str(error), parser)) from error
        settings = self.config.get(self.config.get("subcommand"), self.config)
        for section in ("trainer", "model", "data"):
            if not hasattr(settings.get(section), "keys"):
                raise ValueError(no_section(section, settings.get(section)))
        refuse_nothing(parser, self.config)

    def _add_instantiators(self) -> None:
        """Have what a constructor refuses named with its full key."""
        bases = {LightningModule: _InstantiatorFn(self, "model"), LightningDataModule: _InstantiatorFn(self, "data")}
        for base, make in bases.items():
            self.parser.add_instantiator(partial(self._make, make), base)
        self.parser.add_instantiator(partial(self._make, None), object)

    def _make(
        self,
        make: Callable[..., Any] | None,
        class_type: type,
        *args: Any,
        applied_instantiation_links: dict[str, Any],
        **kwargs: Any,
    ) -> Any:
        """Make an object of the configuration; what its constructor refuses is a ``ValueError`` with the full key."""
        try:
            if make is None:
                return class_type(*args, **kwargs)
            return make(class_type, *args, applied_instantiation_links=applied_instantiation_links, **kwargs)
        except RunError:
            raise
        except REFUSED as error:
            settings = self.config.get(self.config.get("subcommand"), self.config)
            key = find_key(settings, class_type, kwargs)
            if not key:
                raise
            raise ValueError(constructor_complaint(error, class_type, kwargs, key)) from error
