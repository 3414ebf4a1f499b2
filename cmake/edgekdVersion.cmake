# The version of edgekd that this folder came with; the same as __version__ in edgekd/__init__.py.
set(EDGEKD_VERSION 0.1.0)
