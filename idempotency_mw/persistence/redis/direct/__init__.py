"""Our own way to one standalone server, past most of redis-py. Knows nothing of idempotency.

asynchronous, blocking                          a client
async_connection, blocking_connection           one connection of it
resp                                            the protocol
options                                         what is heeded here
deadline                                        when a blocking call must be over
"""
