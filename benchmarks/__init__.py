"""What the library costs, as ratios: `make bench` measures, `make bench-check` holds the counts to their budgets.

    python -m benchmarks            measure all, write results.json, and docs/performance.md from it
    python -m benchmarks check      only counts, bytes and instructions; exits 1 where a budget is missed anew
    python -m benchmarks docs       only write docs/performance.md and its pictures anew

    budgets        the lines that have to hold, and where their values come from
    workload       requests, the bare app and its answer
    contestants    the bare app, bare Redis calls, this library and its peers, each ready to be asked
    worker         asks one contestant, in a process and an environment of its own
    environments   makes those environments
    driving        starts workers and interleaves them
    counting       round trips, commands, and bytes stored
    callgrind      instructions
    timing         CPU and wall time, in flight, by keys, by size, and on the Redis server
    serving        requests a second, and streams, over uvicorn
    tables         docs/performance.md
    pictures       its SVGs
    unkeyed        a request without a key, in frameworks

`workload`, `contestants` and `worker` run in environments of peers: they import nothing of this package's
other modules, and nothing that is not there before it is wanted.
"""
