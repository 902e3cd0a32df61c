"""The command line: a module for each command, and `cli`, which puts them together.

A command is a function whose parameters are the options. What an option means stands in the
`Annotated` type of its parameter, and `--help` shows it below the function's docstring; options
that several commands share are in `_options`.
"""
