"""The rules, as plain values. Nothing in this folder does I/O, knows HTTP, reads a clock or draws a random number.

record      the values that pass between a persistence layer and the machine
machine     what a request gets, and what becomes of its claim
config      the options of every surface
digests     storage keys and fingerprints: SHA-256 over parts
selection   JMESPath expressions, compiled and checked
unpacking   JMESPath functions for data inside of text
members     JSON objects with each member once
"""
