"""The commands of `nashjax`, a module each; `terminal.py` and `report.py` are what they share."""
