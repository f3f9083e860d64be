"""The command line: the table of commands, flags from dataclasses, progress lines."""
