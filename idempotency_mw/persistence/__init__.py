"""Persistence layers: four verbs over a store. They know records, and neither HTTP nor JSON."""
