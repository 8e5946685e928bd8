"""Runs a command and starts it again 5 s after it was killed, as an operator's supervisor would a scheduler."""

from __future__ import annotations

import signal
import subprocess
import sys
import time


def main() -> int:
    child: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, _: object) -> None:
        if child is not None:
            child.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    while True:
        child = subprocess.Popen(sys.argv[1:], start_new_session=True)
        returncode = child.wait()
        if returncode != -signal.SIGKILL:
            return returncode
        time.sleep(5)


if __name__ == "__main__":
    sys.exit(main())
