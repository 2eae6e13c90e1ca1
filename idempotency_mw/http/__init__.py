"""HTTP as values: keys, captured answers, replays and refusals. Knows neither ASGI nor WSGI, nor any store."""
