"""The commands of the command line, one module each: read the arguments, call the workbench, say what came of it."""
