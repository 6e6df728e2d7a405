"""What a person sees in a terminal: log lines, progress bars, errors, exit codes."""

import contextlib
import io
import logging
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fluxseg.errors import FluxsegError, InterruptedRunError
from fluxseg.io.progress import Progressed
from fluxseg.processes import Processes, is_first_process, join_processes, naming_failures

if TYPE_CHECKING:
    from rich.console import Console

USER_ERROR = 2  # exit code for bad input or settings; 1 means that a check has found something
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def create_console(*, stderr: bool = False) -> "Console":
    """Create the console that everything is written to.

    File names are never cut or coloured, and control characters in them only shown.
    """
    from rich.console import Console
    from rich.text import Text

    class PlainConsole(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(show_controls(text), **options)

    return PlainConsole(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)


def show_controls(text: str) -> str:
    r"""Return a text with control characters as what stands for them, such as `\x1b`.

    Names that files tell could otherwise colour, hide or move what a terminal shows, or set its
    title. Line breaks and tabs stay.
    """
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


class _ConsoleHandler(logging.Handler):
    """Print one line for each message, above a progress bar if there is one, never wrapped."""

    def __init__(self, console: "Console"):
        super().__init__()
        self._console = console
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if record.levelno >= logging.WARNING:
            text = f"{record.levelname}: {text}"
        self._console.print(text, markup=False, emoji=False, soft_wrap=True)


def open_console(*, stderr: bool = False) -> "Console":
    """Create the console, and send the messages of the log to it as well; see `create_console`."""
    console = create_console(stderr=stderr)
    configure_logging(console)
    return console


@contextlib.contextmanager
def joined(processes: Processes) -> Iterator["Console"]:
    """Join the other processes of the job, and open the console.

    The first process speaks for all, but each of its failures. Raises `ProcessError`, naming a
    process that has failed.
    """
    console = open_console()
    join_processes(processes)
    if not is_first_process():
        logging.getLogger("fluxseg").setLevel(logging.WARNING)
        console = create_console()
        console.quiet = True
    with naming_failures():
        yield console


def configure_logging(console: "Console") -> None:
    """Send fluxseg's own messages to the console, and only the errors of noisy packages."""
    logging.basicConfig(level=logging.WARNING, handlers=[_ConsoleHandler(console)], force=True)
    logging.getLogger("fluxseg").setLevel(logging.INFO)
    # Their messages are about the machinery, not about anything a user can change.
    for noisy in ("grain", "jax"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    # What fails in these is raised as well.
    for noisy in ("absl", "orbax", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", message=r"coroutine .* was never awaited")
    _silence_aftermath()


def _silence_aftermath() -> None:
    """Keep quiet about what the savers leave behind in threads when a disk is full.

    The failure itself is raised, and told in one line.
    """
    unraisable, threaded = sys.unraisablehook, threading.excepthook

    def on_unraisable(event: Any) -> None:
        code = getattr(event.object, "cr_code", None)
        # TensorStore reports to an event loop that has gone with the failure.
        late = str(event.exc_value) == "Event loop is closed"
        if not (late or _is_saver(event.exc_traceback) or (code and "orbax" in code.co_filename)):
            unraisable(event)

    def on_thread(event: Any) -> None:
        if not _is_saver(event.exc_traceback):
            threaded(event)

    sys.unraisablehook, threading.excepthook = on_unraisable, on_thread


def _is_saver(trace: TracebackType | None) -> bool:
    names = [frame.filename for frame in traceback.extract_tb(trace)]
    return any("orbax" in name or "tensorboardX" in name for name in names)


@contextlib.contextmanager
def progress_bars(console: "Console", *kinds: tuple[str, str]) -> Iterator[list[Progressed]]:
    """Show bars with count, rate and time left; nothing if the console is no terminal.

    A bar, given by its (description, unit), appears when it is first told of progress and goes
    when all is done. Yields for each bar a function to call with (done, in all).
    """
    if not console.is_terminal:
        yield [lambda done, total: None for _ in kinds]
        return
    from rich import progress as bars
    from rich.text import Text

    class Rate(bars.ProgressColumn):
        def render(self, task: bars.Task) -> Text:
            return Text(f"{task.speed:.1f} {task.fields['unit']}/s" if task.speed else "")

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        Rate(),
        bars.TextColumn("time left"),
        bars.TimeRemainingColumn(),
    )

    def show(description: str, unit: str) -> Progressed:
        bar = progress.add_task(description, total=None, visible=False, start=False, unit=unit)

        def update(done: int, total: int) -> None:
            if not progress.tasks[progress.task_ids.index(bar)].started:
                progress.start_task(bar)
            progress.update(bar, completed=done, total=total, visible=done < total)

        return update

    with bars.Progress(*columns, console=console, transient=True) as progress:
        yield [show(*kind) for kind in kinds]


def run_guarded(function: Callable[[], int | None]) -> int:
    """Run a command; turn the errors that a user can act on into one message and an exit code.

    Returns the function's exit code (0 for None), 2 for a `FluxsegError`, 128 + signal if stopped.
    """
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding does not have is shown escaped.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    try:
        return function() or 0
    except InterruptedRunError as error:
        print(show_controls(str(error)), file=sys.stderr)
        return 128 + error.signal_number
    except FluxsegError as error:
        print(show_controls(f"error: {error}"), file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe (such as `head`) has seen enough.
        sys.stderr.close()
        return 0
