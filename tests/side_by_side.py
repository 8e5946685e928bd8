"""`make test`: three parts of the suite side by side, for two cores.

The tests that run the whole stack mostly wait for Airflow; those of the export take about as long as all the rest. The
rest is shown as it runs; what the other two parts print comes whole, after it.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from deploy.local.postgres import THROWAWAY, server

PYTEST = [sys.executable, "-m", "pytest"]
EXPORT = ["tests/export", "tests/oversight"]
SHOWN = ["-m", "not slow", *(f"--ignore={folder}" for folder in EXPORT)]
AFTERWARDS = [
    ["-m", "not slow", "-p", "no:cacheprovider", *EXPORT],
    ["-m", "slow", "-p", "no:cacheprovider"],
]
ENDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    # The first server on a machine may have to make its system user; two at once would both try.
    with tempfile.TemporaryDirectory() as folder:
        server(Path(folder) / "postgres", THROWAWAY).stop()
    with contextlib.ExitStack() as stack:
        outputs = [None, *(stack.enter_context(tempfile.TemporaryFile()) for _ in AFTERWARDS)]
        # In sessions of their own: a Ctrl-C reaches each once, through us, and no second one disturbs its cleaning up.
        sides = [
            subprocess.Popen([*PYTEST, *arguments], stdout=output, stderr=output, start_new_session=True)
            for arguments, output in zip([SHOWN, *AFTERWARDS], outputs, strict=True)
        ]

        def end(*_: object) -> None:
            for number in ENDED:
                signal.signal(number, signal.SIG_IGN)
            print("\nEnding; the stack takes half a minute.", flush=True)  # noqa: T201
            for side in sides:
                side.terminate()

        for number in ENDED:
            signal.signal(number, end)
        for side, output in zip(sides, outputs, strict=True):
            if side.poll() is None and output is not None:
                print("Other tests go on.", flush=True)  # noqa: T201
            side.wait()
            if output is not None:
                output.seek(0)
                shutil.copyfileobj(output, sys.stdout.buffer)
                sys.stdout.flush()
    return next((side.returncode for side in sides if side.returncode), 0)


if __name__ == "__main__":
    sys.exit(main())
