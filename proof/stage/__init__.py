"""The stage of the runs that kill processes and servers: an app under load, and what judges it.

app         the protected app, for ASGI and WSGI, on layers that note each completion
asking      one request, over HTTP or by a direct call of an ASGI app, and its answer as a value
clients     a steady load of clients; each asks with its key until it has a final answer
journal     the file in which the app's executions write down what happens, over all processes and their deaths
stores      reads records from a store, past the layers
judging     compares journal and answers with the invariants
workers     uvicorn workers on one socket, forked again when they die
fleet       such workers, or gunicorn's, seen from the run: kill, stop, continue
scene       the app in the run's own process, for runs that kill servers
herds       processes that send duplicates of the same keys at once
slots       a process that moves cluster slots while requests run in them
writers     processes that only complete claims, and print what was acknowledged
"""
