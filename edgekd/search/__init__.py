"""Searches: which arguments of the student's factory, and which losses, are best within a budget.

What is tried costs compilation and training, so each finished piece is kept in the stage's work folder. A search that goes on
after a kill asks the same questions again, in the same order, and finds the answers there: Optuna proposes, from a seed and
from the answers so far, and keeps nothing itself.
"""
