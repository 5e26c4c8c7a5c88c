"""What the benchmarks share; a module of flows runs in a process and an environment of its own."""
