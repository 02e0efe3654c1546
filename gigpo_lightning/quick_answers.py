"""What ``gigpo`` answers before it imports Lightning: its help, its version, and what is wrong with the first word."""

from argparse import ArgumentError
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser

from gigpo_lightning.complaints import parser_complaint
from gigpo_lightning.config_action import add_config_option, with_near_words
from gigpo_lightning.messages import log_to_stderr, say_error
from gigpo_lightning.provenance import installed_version

_DESCRIPTION = "Trains and evaluates LLM agents with GiGPO (arXiv:2505.10978) on Lightning, configured by YAML."

SUBCOMMANDS = {
    "fit": "Train a policy.",
    "validate": "Play the held-out tasks once with a policy.",
    "test": "Play the tasks of the test splits once with a policy.",
    "predict": "Play tasks with a policy, and keep the episodes.",
    "export": "Write a checkpoint's policy as a folder for Transformers and vLLM; nothing is played or trained.",
    "check-environment": "Say which rule an environment breaks, and what its anchors are worth to step credit.",
}
"""What the help says of each subcommand; a test finds one that ``GigpoCLI`` has and this has not, or the reverse."""


def parser_settings() -> dict[str, Any]:
    """What the parser of all subcommands is made with, whoever makes it."""
    return {"description": _DESCRIPTION, "version": installed_version("gigpo-lightning") or "of a checkout"}


def answer(words: Sequence[str]) -> None:
    """Answer a command line that says nothing of a run, and end the process; for any other do nothing.

    It answers a command line without words, ``--help`` or ``--version`` as the first word, and a first word that is no
    subcommand. The full parser says the same, after seconds of imports.

    Raises:
        SystemExit: With the exit code, when the answer is given.
    """
    if asked_for(words) in (None, *SUBCOMMANDS):
        return
    parser = _parser()
    try:
        parser.parse_args(list(words))
    except ArgumentError as error:
        log_to_stderr()
        say_error(parser_complaint(with_near_words(str(error), parser)))
        raise SystemExit(2) from error


def asked_for(words: Sequence[str]) -> str | None:
    """The subcommand that a command line begins with: empty if it has none, None if options come before it.

    Example:
        >>> asked_for(["fit", "--help"]), asked_for(["--help"]), asked_for(["-c", "run.yaml", "fit"])
        ('fit', '', None)
    """
    if not words or words[0] in ("-h", "--help", "--version"):
        return ""
    return None if words[0].startswith("-") else words[0]


def _parser() -> ArgumentParser:
    """The parser of ``GigpoCLI``, with subcommands that have no options yet."""
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False, **parser_settings())
    add_config_option(parser)
    subcommands = parser.add_subcommands()
    for name, said in SUBCOMMANDS.items():
        subcommands.add_subcommand(name, ArgumentParser(exit_on_error=False), help=said)
    return parser
