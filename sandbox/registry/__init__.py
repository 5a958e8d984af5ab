"""Keeps the files on disk: the run directory, and in it a directory for each server."""
