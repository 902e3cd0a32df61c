"""The command line: a module for each command, and `cli`, which puts them together.

A command is a function whose parameters are the options. The `Annotated` type of a parameter says
what the option means; `--help` shows it below the function's docstring. Options that several
commands share are in `_options`, checks of files in `_files`, writing of results in `_output`.
"""
