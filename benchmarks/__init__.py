"""Measures what the library costs, as ratios: `make bench` measures all, `make bench-check` the counted budgets.

    python -m benchmarks            measure all, write results.json, and docs/performance.md from it
    python -m benchmarks check      only counts, bytes and instructions; exits 1 if a budget is missed
    python -m benchmarks docs       only write docs/performance.md and its pictures again

    budgets        the budgets, and where the results have their values
    workload       the request, the bare app, and its answer
    contestants    the bare app, bare Redis calls, this library and its peers, behind one interface
    worker         sends requests to one contestant, in a process and an environment of its own
    environments   makes those environments
    driving        starts workers and interleaves them
    counting       round trips, commands, and bytes stored
    callgrind      instructions
    timing         CPU and wall time: in flight, by keys, by size, and on the server
    completing     the server's CPU for completing a claim
    serving        requests a second, and streams, over uvicorn
    unkeyed        instructions of a request without a key, in frameworks
    tables         docs/performance.md
    pictures       its SVGs

    direct_path    a program of its own: compares ways to talk to a standalone server (`make bench-direct`)
    redis_cpu      a program of its own: compares ways to complete, by the server's CPU

`workload`, `contestants` and `worker` run in the environments of peers. They import no other module of this
package, and each library only when it is needed.
"""
