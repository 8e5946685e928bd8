"""The detached process that keeps a stack's parts running: all of them, or none.

honcho starts the parts and, when one ends, ends the others. Around it stand here: the state file, which tells `up` and
`status` what runs and what died, and a last look for processes that a part left behind.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import multiprocessing.queues
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import honcho.manager
from honcho.compat import ProcessManager
from honcho.manager import Manager
from honcho.printer import Printer

from deploy.local import processes
from deploy.local.processes import Identity


@dataclass(frozen=True)
class Part:
    """A process to keep running: its command, its whole environment, and the file that takes what it prints.

    Parts are told to end in their order; ``patience_s``: how long the next ones go on, for its last work needs them.
    """

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    patience_s: float = 0.0


@dataclass(frozen=True)
class Failure:
    """The part that ended first, unasked; ``returncode`` is negative for a signal."""

    part: str
    returncode: int


@dataclass
class State:
    """What a supervisor runs. It stays on disk after it ended, with the failure if there was one."""

    supervisor: Identity
    parts: dict[str, Identity]
    failure: Failure | None = None

    def write(self, home: Path) -> None:
        """Replace the state file in ``home`` in one step."""
        fresh = home / "state.json.new"
        fresh.write_text(json.dumps(asdict(self), indent=2) + "\n")
        fresh.rename(home / "state.json")

    @classmethod
    def read(cls, home: Path) -> State | None:
        """Read the state file in ``home``; None if there is none."""
        try:
            content = json.loads((home / "state.json").read_text())
        except FileNotFoundError:
            return None
        return cls(
            supervisor=Identity(**content["supervisor"]),
            parts={name: Identity(**part) for name, part in content["parts"].items()},
            failure=Failure(**content["failure"]) if content["failure"] else None,
        )

    def running(self) -> bool:
        """Whether the supervisor that wrote this still runs."""
        return processes.alive(self.supervisor)


class _Events(multiprocessing.queues.Queue):  # type: ignore[type-arg]
    """honcho's queue of events, which tells what passes through to one listener in the reading process."""

    listener: Callable[[Any], None]

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        message = super().get(block, timeout)
        self.listener(message)
        return message


class _Signals(ProcessManager):
    """SIGTERM to a part's first process alone, which ends its others in its own order; SIGKILL to all of its group.

    honcho's own SIGTERM goes to the whole group. That ends idle workers of Airflow's LocalExecutor while they hold the
    lock of its queue, and a worker with a task then waits for that lock until it is killed.
    """

    def __init__(self, patience_s: Callable[[int], float]) -> None:
        self._patience_s = patience_s

    def terminate(self, pid: int) -> None:
        identity = processes.identify(pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + self._patience_s(pid)
        while identity is not None and processes.alive(identity) and time.monotonic() < deadline:
            time.sleep(0.05)


def plan(home: Path, parts: list[Part]) -> None:
    """Write down for a supervisor what it is to run. The file holds secrets: only its owner may read it."""
    path = home / "supervisor.json"
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump([{**asdict(part), "log": str(part.log)} for part in parts], file)


def supervise(home: Path) -> int:
    """Run the parts planned in ``home`` until SIGTERM or until one ends; return 0 only if it was asked to end."""
    content = json.loads((home / "supervisor.json").read_text())
    parts = [Part(**{**part, "log": Path(part["log"])}) for part in content]
    state = State(Identity(os.getpid(), processes.identify(os.getpid()).started), {})  # type: ignore[union-attr]
    state.write(home)

    honcho.manager.KILL_WAIT = processes.GRACE_S
    manager = Manager(Printer(sys.stdout, colour=False))
    patience = {part.name: part.patience_s for part in parts}
    manager._procmgr = _Signals(  # noqa: SLF001 - honcho has no other place for it
        lambda pid: sum(patience[name] for name, part in state.parts.items() if part.pid == pid)
    )
    manager.events = _Events(ctx=multiprocessing.get_context())

    def listen(message: Any) -> None:
        if message.type == "start":
            identity = processes.identify(message.data["pid"])
            # One that is already gone is reported by its stop event.
            state.parts[message.name] = identity or Identity(message.data["pid"], time.time())
            state.write(home)
        elif message.type == "stop" and state.failure is None and manager.returncode is None:
            state.failure = Failure(message.name, message.data["returncode"])
            state.write(home)

    manager.events.listener = listen
    for part in parts:
        # `exec`, so that signals reach the part and not a shell; a file, so that no pipe of ours can block it.
        command = f"exec {shlex.join(part.command)} >>{shlex.quote(str(part.log))} 2>&1"
        manager.add_process(part.name, command, env={**part.environment, **processes.mark(home)})
    manager.loop()
    # A task of Airflow leads a process group of its own. It had its time.
    processes.end(lambda: processes.marked(home), grace_s=2.0)
    return 1 if state.failure else 0


if __name__ == "__main__":
    sys.exit(supervise(Path(sys.argv[1])))
