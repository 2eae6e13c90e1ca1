"""Runs that show what the library promises, on real stores, processes and servers: `make proof`.

Each run is a module, or a package, that offers one function:

    def run(size: Size, progress: Progress) -> Iterator[Figure]: ...

It yields each figure as soon as it has it, and calls `progress(done, of)` during long work. A violation makes a
figure that does not hold, never an exception: the reader looks at one table only.

servers     servers killed, filled, flushed and evicting, under load
failovers   masters killed behind a Sentinel and in a cluster; slots moved between masters
processes   workers killed and stopped under load
herd        hundreds of duplicates of each key at once
histories   histories of four processes, checked for linearizability
matrix      every row of the fault matrix, and random faults
stateful    every layer against one model
explorer    all interleavings of a few workers, in a model
fuzz        malformed input, and any order of events

`figures` has the types, and `stage` what the runs share that kill processes and servers.
"""
