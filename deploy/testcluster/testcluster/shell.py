"""Running other programs and telling the person what happens."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path


class Refusal(Exception):
    """This machine or request cannot be served; the text says why."""


class CommandFailed(Refusal):
    """A program that had to succeed did not; the text ends with its output."""


def say(text: str) -> None:
    """Tell the person one line of progress."""
    sys.stderr.write(f"testcluster: {text}\n")
    sys.stderr.flush()


def note(text: str) -> None:
    """Write one line to a process's own log, and live on where the log has no room."""
    with suppress(OSError):
        os.write(2, f"{time.strftime('%H:%M:%S')} {text}\n".encode())


@contextmanager
def alone(lock: Path, waiting: str) -> Iterator[None]:
    """Hold a lock file; where another process has it, say so and wait."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(waiting)
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def run(
    *argv: str | Path,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 600,
) -> str:
    """Run a program to its end and return what it printed, or raise."""
    command = [str(part) for part in argv]
    try:
        done = subprocess.run(
            command, input=stdin, env=env, cwd=cwd, timeout=timeout, text=True, capture_output=True, check=False
        )
    except FileNotFoundError as error:
        raise CommandFailed(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"{command[0]} did not finish within {timeout:.0f} s: {' '.join(command)}") from error
    if done.returncode:
        output = (done.stdout + done.stderr).strip()[-2000:]
        raise CommandFailed(f"{' '.join(command)} failed with {done.returncode}:\n{output}")
    return done.stdout


def follow(
    argv: Sequence[str | Path],
    log: Path,
    progress: Callable[[], str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run a long program into a log file, saying every half minute how far it is."""
    command = [str(part) for part in argv]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=cwd, env=env
        )
        try:
            while True:
                try:
                    process.wait(timeout=30)
                    break
                except subprocess.TimeoutExpired:
                    say(progress())
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode:
        raise CommandFailed(f"{' '.join(command)} failed with {process.returncode}:\n{tail(log)}")


def tail(log: Path, lines: int = 20) -> str:
    """The end of a log, indented, or a word that there is none."""
    if not log.exists():
        return f"    ({log} was not written)"
    with log.open("rb") as stream:
        stream.seek(0, 2)
        stream.seek(max(0, stream.tell() - 16384))
        text = stream.read().decode(errors="replace")
    return "\n".join("    " + line[:400] for line in text.splitlines()[-lines:]) or f"    ({log} is empty)"


def wait_for(what: str, ready: Callable[[], bool], seconds: float, why: Callable[[], str]) -> None:
    """Poll until ``ready``; past ``seconds`` refuse, saying what is late and ``why``."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise Refusal(f"{what} was not ready within {seconds:.0f} s\n{why()}")
        time.sleep(0.1)
