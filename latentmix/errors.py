"""The one exception that users see: a single line that says what is wrong and what to do."""


class UserError(Exception):
    """Something the user can mend. The command line prints it without a traceback and exits with `exit_code`."""

    exit_code = 2


class Interrupted(UserError):
    """The user stopped the work."""

    exit_code = 130
