"""Runs tests or a command with a sandbox."""
