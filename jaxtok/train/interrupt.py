"""SIGTERM: the machine is about to go away; save and leave."""

import contextlib
import signal
import threading
from collections.abc import Generator


class Asked:
    """``code`` is 1 once SIGTERM has arrived."""

    code = 0


@contextlib.contextmanager
def sigterm() -> Generator[Asked]:
    """Notes SIGTERM instead of dying, inside the block; in another thread than the main one it does nothing."""
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(number, frame):
        asked.code = 1

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
