"""The garbage collector, set for a process that runs for long."""

import gc


def settle() -> None:
    """Leave alone what a program has loaded, and look for cycles less often: pauses of tens of milliseconds end."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
