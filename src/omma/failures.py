"""What went wrong, told to the person it concerns, and the exit code that it ends with."""

import errno
import sys
import traceback

OK, UNEXPECTED, BAD_INPUT, NON_FINITE, INTERRUPTED = 0, 1, 2, 3, 130

# The machine's trouble rather than a mistake of ours: told without a traceback.
MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.EFBIG, errno.ENOMEM}

# A place that the user named and that can't be used.
PLACE = FileNotFoundError | NotADirectoryError | IsADirectoryError | FileExistsError | PermissionError
NO_PLACE = {errno.ENAMETOOLONG, errno.ELOOP}


def tell(error: BaseException) -> int:
    """Print the error for the person it concerns and give its exit code.

    A ValueError that omma itself raised, an extra that isn't installed, or a missing file, is the user's to mend: the
    message and no traceback. A ValueError out of a library is ours, and its traceback is what we need to see.
    """
    loop = sys.modules.get("omma.training.loop")
    if loop is not None and isinstance(error, loop.NonFiniteLoss):
        print(f"omma: {error}", file=sys.stderr)
        return NON_FINITE
    if loop is not None and isinstance(error, loop.FailedElsewhere):  # its traceback is the other process's to show
        print(f"omma: {error}", file=sys.stderr)
        return UNEXPECTED
    if isinstance(error, PLACE) or (isinstance(error, OSError) and error.errno in NO_PLACE):
        print(f"omma: {error.strerror}: {error.filename}" if error.filename else f"omma: {error}", file=sys.stderr)
        return BAD_INPUT
    if isinstance(error, OSError) and error.errno in MACHINE:
        print(f"omma: {error}", file=sys.stderr)
        return UNEXPECTED
    if isinstance(error, ValueError | ImportError) and raised_by_omma(error):  # ImportError: an extra to install
        print(f"omma: {error}", file=sys.stderr)
        return BAD_INPUT
    traceback.print_exception(error, file=sys.stderr)
    print("omma: this was not expected; the lines above say where it happened", file=sys.stderr)
    return UNEXPECTED


def raised_by_omma(error: BaseException) -> bool:
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and frame.tb_frame.f_globals.get("__name__", "").split(".")[0] == "omma"
