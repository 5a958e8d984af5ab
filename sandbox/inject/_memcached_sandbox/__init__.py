"""Runs inside the processes of a run. Private."""
