"""The report: what was measured and decided, as data (`schema`) and for people (`markdown`, `html`, `terminal`)."""
