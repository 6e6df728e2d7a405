"""Errors that a user can act on; the command line prints them without a traceback."""


class FluxsegError(Exception):
    """Base of every error that fluxseg raises for bad input or a bad setting.

    Its message names the file or the field, what is wrong, and what to do about it.
    """


class RecordingError(FluxsegError, ValueError):
    """A recording, or the file it comes from, cannot be used.

    Args:
        field: the field at fault, such as `"masks"` or `"max_projection"`; empty if it is the
            file as a whole.
        reason: what is wrong with it and what would be right.
    """

    def __init__(self, field: str, reason: str):
        self.field = field
        self.reason = reason
        self.names_file = False  # whether `field` begins with the path of the file
        super().__init__(f"{field}: {reason}" if field else reason)

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        # Exceptions cross process borders in `prepare` and `check`.
        return type(self), (self.field, self.reason)


class UnsafeFileError(RecordingError):
    """A data file asks for code to be run; nothing in it was executed."""


class ConfigError(FluxsegError, ValueError):
    """A setting is out of its range, unknown, or contradicts another one."""


class WorkdirError(FluxsegError):
    """A workdir cannot be used: another run's data, a changed config, no checkpoint, no space."""


class TrainingError(FluxsegError):
    """Training cannot go on, for example because the loss is not finite."""


class ProcessError(FluxsegError):
    """Another process of the same job has failed, hangs, or cannot be found."""


class InterruptedRunError(FluxsegError):
    """A run was asked to stop, and has saved its state.

    Args:
        signal_number: the signal that asked; the process should exit with 128 plus it.
        message: where it stopped and how to go on.
    """

    def __init__(self, signal_number: int, message: str):
        self.signal_number = signal_number
        super().__init__(message)
