"""A program that prints the signals it receives."""

from __future__ import annotations

# Prints the name of each signal, until its standard input ends.
RECORDER = """
import os, signal, sys
def say(word): os.write(1, word.encode() + b"\\n")  # print() could be interrupted within itself
def record(number, frame): say(signal.Signals(number).name)
for name in sys.argv[1:]:
    signal.signal(getattr(signal, name), record)
say("ready")
sys.stdin.read()
"""
