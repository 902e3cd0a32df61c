"""Shells complete the names of commands and options."""

import os
import subprocess
import sys

RUN = "from graphcnf.scripts.cli import main; main()"


def complete(words):
    environment = {
        **os.environ,
        "_GRAPHCNF_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_commands_and_options_are_completed():
    assert complete("graphcnf ima") == ["images"]
    assert complete("graphcnf images inter") == ["interpolate"]
    assert complete("graphcnf generate --temp") == ["--temperature"]
