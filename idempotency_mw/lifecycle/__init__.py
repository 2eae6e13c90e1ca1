"""The life of one claim: acquired, kept while the app runs, settled. Knows no HTTP and no function.

claims            begin, wait, settle: `ClaimLifecycle` for blocking code, `AsyncClaimLifecycle` for asyncio
settling          what is kept at the end, and what is reported when the end goes wrong
heartbeat         extends the leases of blocking code, in a thread
async_heartbeat   extends the leases of asyncio code, with a timer on each event loop
waiting           how long a duplicate waits, how often it asks, and how many may wait at once
shielding         finishes a step although its task is cancelled
startup           what a surface logs when it is built
"""
