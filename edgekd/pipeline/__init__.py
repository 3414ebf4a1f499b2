"""From a recipe to a report: plan.py lists the steps with their keys, run.py makes what the store does not have.

roots.py (teacher and student as given) · trial.py (their losses tried first) · context.py (what a stage is given) ·
judge.py (networks in torch) · engines.py (export, compile, evaluate, race) · results.py (the report's content).
"""
