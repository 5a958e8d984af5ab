"""One run of tests or of a command with a sandbox."""
