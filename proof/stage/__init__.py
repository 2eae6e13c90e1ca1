"""What the runs share that kill processes and servers.

journal     what the app's executions write down themselves, over processes and their deaths
app         the app that is protected, for ASGI and WSGI, and the layers that note what they settled
workers     real uvicorn workers on one socket, and what starts each anew that dies
fleet       such workers, or gunicorn's, as the run sees them: to be killed, stopped and continued
herds       processes that ask with the same keys at once
slots       a process that moves slots in which runs are under way
scene       the app in the run's own process, over an async and a blocking layer: where servers are killed
asking      one request, over HTTP or straight to an ASGI app, and its answer as a value
clients     clients under way, each asking with its key until it has an answer
writers     processes that do nothing but complete, and say what was acknowledged
stores      the run's own look into a store
judging     what the journal and the answers say about the invariants
"""
