"""Micro-benchmarks of what every event, timer and datagram costs. ``command.py`` says how to run them."""
