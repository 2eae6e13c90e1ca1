"""Our own way to one standalone server, past most of redis-py. It knows nothing of idempotency.

asynchronous, blocking                    the clients
async_connection, blocking_connection     one connection of each
exchanges                                 whose reply is whose on a shared connection; no I/O
resp                                      Redis's protocol; no I/O
options                                   which of redis-py's options are heeded
deadline                                  how long waits may be
"""
