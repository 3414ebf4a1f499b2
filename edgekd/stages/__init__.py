"""Stages: what a recipe lists, in order. `use = "distill"` is `edgekd/stages/distill.py`; its fields are the recipe's.

Each file exports one frozen dataclass, a subclass of `edgekd.stage.Stage`, and is read without torch: what needs torch is
imported where it runs. Its contract:

    takes, gives    "student" or "quantized"
    reads           which of {"teacher", "data", "calibration", "target"} the result depends on
    precision       "float32", "int8", or what can only be simulated, such as "W4A4"
    names()         the registry files that its fields name
    check()         builds what they name, so that a wrong value is said before any work
    run(student, context, out)  writes the next student into the folder `out`, returns facts as JSON
"""
