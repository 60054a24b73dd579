"""The one exception that users are meant to see."""


class InputError(Exception):
    """Bad input, told in one clear sentence that quotes the offending value and says what to do.

    The command line prints the sentence and exits with status 2; nothing has been written or lost when it is raised.
    """
