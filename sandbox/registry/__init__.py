"""What is on disk: the run directory and the directories of servers in it."""
