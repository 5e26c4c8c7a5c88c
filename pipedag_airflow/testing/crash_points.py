"""Its presence in a process is what lets ``PIPEDAG_CRASH_POINT`` kill it; it has nothing in it."""
