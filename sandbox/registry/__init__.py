"""The files on disk: the run directory, and in it a directory of each server."""
