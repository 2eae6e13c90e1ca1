"""redis-py's clients, built so that they keep to a deadline.

blocking, asynchronous  build a client for an address
connections             redis-py's connections, which keep to a deadline, and leave a server that was demoted
cluster                 redis-py's cluster clients, while slots move and callers come at once
limits                  how many commands may be under way on an async client
closing                 closes a client, or drops one whose event loop is over
foreign_loop            an event loop that is over, or was copied by a fork
"""
