"""Aerogel's peers: one small module each, with the function `prepare` (see worker.py), and their rows in table.py."""
