"""A program that prints the signals it receives."""

from __future__ import annotations

# Prints the name of each signal, until its standard input ends. A signal that comes just before
# select() has sent a byte, its number, by then: it is not missed.
RECORDER = """
import os, select, signal, sys
def say(word): os.write(1, word.encode() + b"\\n")
reader, writer = os.pipe()
os.set_blocking(writer, False)
signal.set_wakeup_fd(writer)
for name in sys.argv[1:]:
    signal.signal(getattr(signal, name), lambda *_: None)
say("ready")
while True:
    readable, _, _ = select.select([0, reader], [], [])
    if reader in readable:
        for number in os.read(reader, 100): say(signal.Signals(number).name)
    if 0 in readable and not os.read(0, 100): break
"""
