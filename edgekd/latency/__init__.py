"""Latency, measured honestly: one clock for every session, engines raced against each other, intervals with each number.

clock.py         warm-up until steady, then blocks of timed calls, raw samples kept
machine.py       cores to pin to, how busy the machine is, peak memory
rounds.py        what one fresh process of a race does: open all, warm up, randomised interleaved rounds
race.py          several processes of rounds over several engines, and what they recorded
instructions.py  instructions a call, where the machine can count them
statistics.py    raw samples to median, p90, p99 and their intervals; two engines to a ratio with its interval
"""
