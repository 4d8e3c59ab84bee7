"""Choosing frames by uncertainty: predicted force errors, active selection, when to stop."""
