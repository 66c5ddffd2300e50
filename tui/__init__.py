"""Screens and the command line: they show and ask, and leave the doing to `workbench`."""
