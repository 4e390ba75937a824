"""The fastest way to run a bundle on this machine that keeps its accuracy.

    candidates -> accuracy of each kind of arithmetic -> heats, the slower half leaves -> final, interleaved -> plan

Every candidate runs in a process of its own (`_entrant`), since two runtimes in one disturb each other; one that
crashes or hangs is told, and the rest goes on. `tune.tune` is the whole of it.
"""
