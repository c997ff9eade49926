"""Errors that a user can mend: one sentence naming the file and the cure, never a traceback."""


class UserError(Exception):
    """Bad input, configuration or environment.

    The message is one or two plain sentences: what is wrong, in which file or key, and what to do about it.
    The command line prints it and exits with status 2.
    """
