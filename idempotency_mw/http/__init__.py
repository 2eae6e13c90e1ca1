"""HTTP as values and decisions. Knows neither ASGI nor WSGI, and no store.

config         the options of HTTP
startup        what a surface logs when it is built
rules          the options of a surface, and the exchange for each request
exchange       the decisions about one request
key            the idempotency key, from a header or a JSON body
fingerprint    what must be equal for a retry to be the same request
sender         who sends a request
body           media types, strict JSON, parts of multipart forms
prefer         the preference to wait
message        requests and responses as values
replies        the replies to one request
capture        the app's response, collected while it passes through
kept_headers   which headers are stored
codec          a response as bytes
problem        refusals as RFC 9457 problems
"""
