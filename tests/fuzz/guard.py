"""What a reader may do with a stranger's file, and what it did: the oracle of the fuzzer."""

import contextlib
import dataclasses
import functools
import gc
import importlib
import logging
import os
import resource
import shutil
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from fluxseg.errors import FluxsegError
from tests.fuzz.folders import Files, is_below, write_folder

LIMIT = 2**22
"""What every limit of memory in the readers is set to, bytes: large files cost no time so."""
MOST_MEMORY = 2**28
"""Bytes that reading one input may take besides: many times the limit, and its libraries."""
MOST_SECONDS = 10.0
"""Seconds of processor time that one input may take."""
_FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn",
    "subprocess.Popen", "socket.connect", "socket.bind", "socket.getaddrinfo", "urllib.Request",
    "webbrowser.open", "ctypes.dlopen", "pickle.find_class", "os.putenv", "os.kill",
    "os.chmod", "os.chown", "os.symlink", "os.link",
)  # fmt: skip
_LIBRARIES = ("PIL", "h5py", "imagecodecs", "numpy", "olefile", "roifile", "safetensors", "scipy",
              "skimage", "tifffile")  # fmt: skip
"""Packages that readers import when a file needs them."""
_READERS = ("data", "formats", "io", "inference", "adapt")
"""Folders of the package with limits of memory."""
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class ViolationError(BaseException):
    """A reader did what no file may make it do."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one input.

    The kind is "read", the class of a documented error, or "finding"; of a finding `where` tells it
    apart from others.
    """

    kind: str
    what: str = ""
    where: str = ""
    trace: str = ""


class Guard:
    """Watches, by an audit hook, what a reader does; nothing may be changed outside of `place`."""

    def __init__(self, place: Path):
        self.input, self.output = place / "input", place / "output"
        self.elsewhere = place / "elsewhere"
        self.elsewhere.mkdir(parents=True, exist_ok=True)
        self.watching = False
        # Threads that other tests have left are none of a reader's business.
        self.thread = threading.get_ident()
        self.seen: list[str] = []
        self.known: frozenset[str] | set[str] = sys.stdlib_module_names
        self.readable = tuple(
            {
                os.path.realpath(path)
                for path in (
                    *(sys.prefix, sys.base_prefix, Path(__file__).parents[2], place),
                    *("/usr/share", "/usr/lib", "/proc", "/sys", "/dev", "/etc/localtime"),
                    *[path for path in sys.path if path],
                )
            }
        )

    def warm_up(self, read: Callable[[Path, Path], None], wholes: Iterable[Files]) -> None:
        """Read files without watching: what is imported or compiled later is suspicious."""
        for files in wholes:
            write_folder(self.input, files)
            self.output.mkdir(exist_ok=True)
            with contextlib.suppress(FluxsegError):
                read(self.input, self.output)
        self.known = {name.partition(".")[0] for name in sys.modules} | sys.stdlib_module_names
        self.known |= set(_LIBRARIES)

    def install(self) -> None:
        """Begin to listen; this cannot be taken back, but is idle while no reader runs."""
        os.chdir(self.elsewhere)
        sys.addaudithook(self._hook)

    def observe(self, read: Callable[[Path, Path], None], files: Files) -> Outcome:
        """Let a reader read a folder of these files, and say what came of it."""
        write_folder(self.input, files)
        shutil.rmtree(self.output, ignore_errors=True)
        self.output.mkdir()
        before = _reset_peak()
        began = time.process_time()
        outcome = self._run(read)
        seconds, memory = time.process_time() - began, _peak() - before
        size = sum(map(len, files.values()))
        if outcome.kind != "finding":
            strays = os.listdir(self.elsewhere)
            if self.seen:
                outcome = Outcome("finding", self.seen[0], self.seen[0].split(":")[0])
            elif strays:
                outcome = Outcome("finding", f"wrote {strays} elsewhere", "wrote elsewhere")
            elif seconds > MOST_SECONDS:
                outcome = Outcome("finding", f"took {seconds:.0f} s", "time")
            elif memory > MOST_MEMORY + 8 * size:
                outcome = Outcome("finding", f"took {memory >> 20} MiB", "memory")
        for stray in os.listdir(self.elsewhere):
            Path(self.elsewhere, stray).unlink()
        return outcome

    def _run(self, read: Callable[[Path, Path], None]) -> Outcome:
        self.seen.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.watching = True
            try:
                read(self.input, self.output)
            except FluxsegError as error:
                self.watching = False
                return _judge(error)
            except (Exception, ViolationError, SystemExit) as error:
                self.watching = False
                return _finding(error)
            finally:
                self.watching = False
        return Outcome("read")

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.watching or threading.get_ident() != self.thread:
            return
        reason = self._reason(event, arguments)
        if reason:
            self.watching = False
            self.seen.append(f"{event}: {reason}"[:300])
            raise ViolationError(self.seen[-1])

    def _reason(self, event: str, arguments: tuple[Any, ...]) -> str:
        """Return why an event must not be, or nothing."""
        if event in _FORBIDDEN:
            return str(arguments)
        if event == "open":
            path, mode, flags = arguments
            if not isinstance(path, str | bytes | os.PathLike):
                return ""
            path = os.fsdecode(path)
            if flags & _WRITING or set(str(mode or "")) & set("wax+"):
                return "" if self._may_change(path) else f"{path} for writing"
            real = os.path.realpath(path)
            return "" if real.startswith(self.readable) else f"{path} for reading"
        if event in _CHANGES:
            paths = [os.fsdecode(a) for a in arguments if isinstance(a, str | bytes | os.PathLike)]
            return "" if all(map(self._may_change, paths)) else str(paths)
        if event == "import":
            name = str(arguments[0])
            return "" if name.partition(".")[0] in self.known else name
        if event in ("compile", "exec", "marshal.loads"):
            return self._foreign_code(arguments)
        return ""

    def _may_change(self, path: str) -> bool:
        if path == os.devnull:
            return True
        return any(is_below(path, str(folder)) for folder in (self.output, self.input))

    def _foreign_code(self, arguments: tuple[Any, ...]) -> str:
        # `ast.literal_eval` parses texts, and parses only; modules are compiled when imported.
        source = arguments[0]
        name = getattr(source, "co_filename", arguments[1] if len(arguments) > 1 else "")
        name = os.fsdecode(name) if isinstance(name, str | bytes) else ""
        if Path(name).is_absolute() and os.path.realpath(name).startswith(self.readable):
            return ""
        if source in (b"_getframe()", "_getframe()"):
            return ""  # how a compiled extension adds its lines to a traceback
        frame: Any = sys._getframe(2)
        while frame is not None:
            code = frame.f_code
            if "importlib" in code.co_filename or (code.co_name, name) == ("parse", "<unknown>"):
                return ""
            if code.co_filename.endswith(("collections/__init__.py", "dataclasses.py")):
                return ""
            frame = frame.f_back
        return f"{str(source)[:80]} of {name}"


def limit_process(memory: int = 2**32) -> None:
    """Let this process grow by so many bytes of addresses, and silence what it logs."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable(logging.CRITICAL)
    sys.setrecursionlimit(1000)


@contextlib.contextmanager
def lowered_limits() -> Iterator[None]:
    """Set the limits of memory in all readers to `LIMIT` while the block runs."""
    undo: list[Callable[[], None]] = []
    for name in sorted(sys.modules):
        if name.startswith(tuple(f"fluxseg.{folder}." for folder in _READERS)):
            undo += _lower(importlib.import_module(name))
    try:
        yield
    finally:
        for restore in undo:
            restore()


def _lower(module: Any) -> list[Callable[[], None]]:
    undo: list[Callable[[], None]] = []
    for name, value in list(vars(module).items()):
        if name.startswith("MAX_") and isinstance(value, int) and value > LIMIT:
            undo.append(functools.partial(setattr, module, name, value))
            setattr(module, name, LIMIT)
        defaults = getattr(value, "__defaults__", None)
        if defaults and getattr(value, "__module__", "") == module.__name__:
            undo.append(functools.partial(setattr, value, "__defaults__", defaults))
            value.__defaults__ = tuple(
                LIMIT if isinstance(d, int) and d > LIMIT else d for d in defaults
            )
    return undo


def _judge(error: FluxsegError) -> Outcome:
    text = str(error)
    if not text.strip() or len(text) > 20_000:
        return _finding(error, f"the error's text has {len(text)} characters")
    return Outcome(type(error).__name__, text.splitlines()[0][:200])


def _finding(error: BaseException, what: str = "") -> Outcome:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/fluxseg/" in frame.filename]
    inner = own[-1] if own else frames[-1]
    where = f"{type(error).__name__} {Path(inner.filename).name}:{inner.name}"
    trace = "".join(traceback.format_exception(error, limit=-12))
    what = what or f"{type(error).__name__}: {error}"
    # What the trace holds on to would count as memory of the next input.
    traceback.clear_frames(error.__traceback__)
    gc.collect()
    return Outcome("finding", what[:300], where, trace[-6000:])


def _reset_peak() -> int:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), 0)
