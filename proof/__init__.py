"""Runs that show what the library promises, on real stores, processes and servers: `make proof`.

Each run is a module, or a package, that offers one function:

    def run(size: Size, progress: Progress) -> Iterator[Figure]: ...

It yields a figure as soon as it has one, and calls `progress(done, of)` where it takes long. A run proves
something only if it can fail: a violation makes a figure that does not hold, never an exception that somebody has
to read.
"""
