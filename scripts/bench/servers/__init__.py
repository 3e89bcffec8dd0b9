"""The benchmark of the servers: ours beside others under the same load. ``command.py`` says how to run it."""
