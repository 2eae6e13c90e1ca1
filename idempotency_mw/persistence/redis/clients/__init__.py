"""redis-py's clients, built so that they keep to a deadline.

blocking, asynchronous  a client for an address
connections             redis-py's connections, cut to a deadline, and left when their server is demoted
cluster                 redis-py's cluster clients, where slots move
limits                  how many commands may be under way on an async client
closing                 what closes a client, and lets go of one whose event loop is over
"""
