"""The built-in sample model and its texts."""
