"""Building blocks the models share."""
