"""Calibration sources, one file each. Contract: a frozen dataclass that is an `edgekd.source.Source`."""
