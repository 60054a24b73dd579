"""One process at a time in a folder that is written over hours."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from molsampler.basis.errors import InputError

try:
    import fcntl
except ImportError:  # not on Windows: a folder is then not guarded against a second process
    fcntl = None

_NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK)
"""What a file system without locks answers, as some network ones do."""


class FolderLock:
    """Holds `folder`, which is made if need be, until `release` or the end of the process; a context manager too.

    say : is told where the file system has no locks; the folder is then not guarded
    Raises InputError where another process holds it or where it cannot be written.
    """

    def __init__(self, folder: str | Path, say: Callable[[str], None] = print) -> None:
        self._handle: int | None = None
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            if fcntl is None:
                return
            handle = os.open(Path(folder) / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            raise InputError(
                f"'{folder}' cannot be written to ({error.strerror}): choose another with --out."
            ) from error
        try:
            # the system frees the lock when the process dies, even by kill -9
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise InputError(
                f"'{folder}' is in use by another molsampler process: wait for it, or choose another with --out."
            ) from None
        except OSError as error:
            os.close(handle)
            if error.errno not in _NO_LOCKS:
                raise InputError(
                    f"'{folder}' cannot be locked ({error.strerror}): choose another with --out."
                ) from error
            say(
                f"warning: '{folder}' is on a file system without locks ({error.strerror}): see to it yourself that no "
                "second molsampler process works there"
            )
            return
        self._handle = handle

    def release(self) -> None:
        """Lets another process in. Safe to call twice."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
