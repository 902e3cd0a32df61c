"""`python -m graphcnf.scripts.figures`."""

from graphcnf.scripts.cli import run
from graphcnf.scripts.figures.cli import app

run(app, name="python -m graphcnf.scripts.figures")
