"""Blocks of a network and cheaper ones to stand in their place: found, trained one by one, scored, and chosen together."""
