"""What ends a run although its configuration is right."""


class RunError(RuntimeError):
    """A run cannot go on: its engine, its weights or an environment is not what it must be.

    The message says what was found and what to do; the command line shows it without the traceback of our own code.
    """
