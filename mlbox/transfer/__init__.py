"""Moving experiments, runs and models: out of a server that speaks MLflow's REST, through a folder, into a box.

A box speaks that protocol itself, so one reader serves both. It runs on the user's machine, with the user's own tokens.
"""
