"""Execution of solves: where a problem runs and in which pieces."""
