"""Keeps a process of the relay's program from the kernel, which has the same user."""

#: prctl(2)
_PR_SET_DUMPABLE = 4


def hide() -> None:
    """See that the kernel can neither trace this process nor reach its memory and its descriptors."""
    import ctypes  # there is no other way to prctl(2); who calls this has done what was urgent

    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
