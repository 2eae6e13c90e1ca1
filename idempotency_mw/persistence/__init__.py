"""Persistence layers: four verbs over a store. They know records, and neither HTTP nor JSON.

base          the four verbs, as Protocols
adapted       the layer that a surface was given, made ready for it
verbs         the four verbs as pure functions
frame         a record as bytes
memory        a layer in this process's memory
sqlite        a layer in a SQLite file
sqlite_file   that file: its rights, and which one it is
redis/        layers in Redis or Valkey
threaded      a blocking layer for async code
local_cache   a layer around a layer, which keeps completed records in the process
"""
