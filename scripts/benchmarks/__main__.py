"""`python -m graphcnf.scripts.benchmarks`."""

from graphcnf.scripts.benchmarks.cli import app
from graphcnf.scripts.cli import run

run(app, name="python -m graphcnf.scripts.benchmarks")
