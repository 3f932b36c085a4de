"""The one exception that users see: a single line that says what is wrong and what to do."""


class UserError(Exception):
    """Something the user can mend. The command line prints it without a traceback and exits with `exit_code`."""

    exit_code = 2


class Terminated(KeyboardInterrupt):
    """SIGTERM, as schedulers and `kill` send it, which is taken as Ctrl-C is."""


STOPPED = "stopped; what is finished is kept, and the same command continues from there"


class Interrupted(UserError):
    """The user or the system stopped the work: `exit_code` is 128 and the signal's number, as a shell has it."""

    def __init__(self, text: str, stop: KeyboardInterrupt | None = None) -> None:
        super().__init__(text)
        self.exit_code = 143 if isinstance(stop, Terminated) else 130
