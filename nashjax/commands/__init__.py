"""The commands of `nashjax`, a module each; `terminal.py`, `options.py` and `report.py` are what they share."""
