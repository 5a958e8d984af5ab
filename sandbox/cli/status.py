"""The exit statuses that are our own, and not those of a command that ``exec`` runs."""

PROBLEM = 1
USAGE = 2
FAILURE = 125
INTERRUPTED = 130
