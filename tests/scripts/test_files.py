"""What a command reads is not replaced by what it writes, whatever the option and the name."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
import typer

from graphcnf.file_reading import WEIGHTS
from graphcnf.scripts.benchmarks.__main__ import app as benchmarks
from graphcnf.scripts.cli import app

TEXTS = {
    "accelerator", "added_atoms", "added_rings", "added_rotatable", "alerts", "assignments",
    "close", "column", "conditions", "decorate", "device", "exclude", "grow", "intended", "kinds",
    "learn", "licence", "limits", "link", "methods", "metrics", "molecule", "names", "properties",
    "protein", "repository", "require", "routes", "scaffold", "seeds", "similarities",
    "smarts", "tasks", "wanted",
}  # fmt: skip
"""Options and arguments of text that name no file, in any command."""

MOLECULES = "CCO\nCCN\nCCF\n"
FILE_WITH = {"min_similarity": "{}:0", "max_similarity": "{}:1", "score": "{}:f"}
"""How an option writes the file that it reads, where that is not the whole value."""


@pytest.fixture
def run_folder(model_folder, surroundings):
    """A folder, named run, as a training leaves it, with the names that lead to its files."""
    folder = surroundings / "run"
    shutil.copytree(model_folder, folder / "model")
    shutil.copytree(model_folder, folder / "snapshots" / "00000002")
    (folder / "run.json").write_text('{"program": "graphcnf", "run": "training"}\n')
    (folder / "metrics.csv").write_text("step,phase,minutes,loss\n1,eval,0.1,2\n2,eval,0.2,1\n")
    (surroundings / "way").symlink_to("run/model")
    os.link(folder / "model" / "config.json", surroundings / "other.json")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def commands(group, *path: str):
    """Yield the path and the click command of every command of a group."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *path, name)
        else:
            yield (*path, name), command


def line(path: tuple[str, ...], command, **given: object) -> list[str]:
    """Return a command line with some parameters given, and words for others that are needed."""
    words = [*path]
    for parameter in command.params:
        value = given.get(parameter.name, "0" if parameter.required else None)
        if value is not None:
            option = parameter.param_type_name == "option"
            words.append(f"{parameter.opts[0]}={value}" if option else str(value))
    return words


COMMANDS = dict(commands(typer.main.get_command(app)))


def test_every_parameter_that_may_name_a_file_says_what_is_done_with_it():
    """A new option of type `Path` fails at once; one of text is a file, or named above."""
    from graphcnf.scripts._files import commands, guard, roles_of

    for one in (*commands(app), *commands(benchmarks)):
        hints = get_type_hints(one.callback)
        for name, (_, role) in roles_of(one.callback).items():
            # The arguments of interpolate are molecules, those of images interpolate are files.
            text = name in TEXTS or "scripts.interpolate" in one.callback.__module__
            is_text = "str" in str(hints[name])
            lacking = f"{name} of the command {one.callback.__name__} needs a Role, as in _files.py"
            assert not is_text or role is not None or text, lacking
    unsaid = typer.Typer()

    @unsaid.command()
    def example(out: Path = Path("x")) -> None:
        """Write a file."""

    with pytest.raises(TypeError, match="out of example needs a Role"):
        guard(unsaid)


def test_no_output_of_any_command_replaces_an_input(in_this_process, run_folder, surroundings):
    from graphcnf.scripts._files import Role, roles_of

    mine = surroundings / "mine.smi"
    mine.write_text(MOLECULES)
    (surroundings / "link.smi").symlink_to(mine)
    os.link(mine, surroundings / "hard.smi")
    (surroundings / "data").mkdir()
    (surroundings / "data" / "a.smi").write_text(MOLECULES)
    of_file = ("mine.smi", mine, "run/../mine.smi", "./mine.smi", "link.smi", "hard.smi")
    of_run = ("run/model/config.json", "run/metrics.csv", "run/new.csv", "run/model/new",
              "way/config.json", "way/new.csv", "other.json", run_folder / "model" / ".." / "x.smi",
              WEIGHTS / "zinc250k" / "config.json", WEIGHTS / "new")  # fmt: skip
    before, tried, graphcnf = content(surroundings), 0, in_this_process(app)
    for path, command in COMMANDS.items():
        roles = {name: role for name, (_, role) in roles_of(command.callback).items()}
        outputs = [name for name, role in roles.items()
                   if role in (Role.OUTPUT, Role.RUN, Role.PLOT)]  # fmt: skip
        for name, role in roles.items():
            pairs = []
            if role in (Role.FILE, Role.FILES):
                value = FILE_WITH.get(name, "{}").format("mine.smi")
                pairs += [(value, out) for out in of_file]
            if role is Role.FILES:
                pairs += [("data", "data/a.smi"), ("data", "data/new.smi"), ("data", "data/x.png")]
            if role is Role.MODEL:
                pairs += [(value, out) for value in ("run", "run/model", "way") for out in of_run]
                pairs += [("zinc250k", out) for out in of_run[-2:]]
            # An option that is repeated counts once, at its end.
            force = ["--force"] * ("force" in {p.name for p in command.params})
            for output in outputs:
                for value, out in pairs[tried % 3 :: 3]:  # a third of them, others in turn
                    words = [*line(path, command, **{name: value, output: out}), *force]
                    code, stdout, err = graphcnf(*words)
                    assert code == 2 and not stdout, (words, err)
                    assert str(Path(out)) in err and "'--" in err, words
                    assert err.count("error:") == 1, words
                    tried += 1
    assert tried > 200 and content(surroundings) == before
    assert not (WEIGHTS / "new").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("score", "mine.smi", "--model", "run/snapshots/00000002", "--out", "run/metrics.csv"),
        ("evaluate", "mine.smi", "--model", "run", "-n", "9", "--html", "run/report.html"),
        ("evaluate", "mine.smi", "--reference", "train.csv", "--out", "train.csv"),
        ("interpolate", "CCO", "CCN", "--model", "run", "--picture", "run/curves.svg"),
        ("interpolate", "CCO", "CCN", "--model", "run", "--min-similarity", "i.png:0",
         "--picture", "i.png"),
        ("generate", "--model", "run", "-n", "2", "--min-similarity", "i.html:0", "--html",
         "i.html"),
        ("generate", "--model", "run", "-n", "2", "--max-similarity", "i.svg:1", "--picture",
         "i.svg"),
        ("grow", "--scaffold", "CC", "--model", "run", "-n", "1", "--min-similarity", "i.html:0",
         "--html", "i.html"),
        ("stereoisomers", "CC(O)F", "--out", str(WEIGHTS / "zinc250k-stereo" / "x.json")),
        ("optimize", "--score", "qed", "--budget", "3", "--model", "run", "--save", "run/tuned"),
        ("plot", "run", "--out", "run/other.svg"),
        ("finetune", "mine.smi", "--weights", "run", "--out", "run/finer"),
        ("train", "start.toml", "--out", "run/finer"),
        ("train", "zinc250k", "--set", "model.start=run/model", "--out", "run/finer"),
    ],
)  # fmt: skip
def test_an_output_that_is_read_is_refused(refused, run_folder, surroundings, words):
    for name in ("mine.smi", "i.html", "i.svg", "i.png"):
        (surroundings / name).write_text(MOLECULES)
    (surroundings / "train.csv").write_text("smiles\nCCO\nCCN\n")
    (surroundings / "start.toml").write_text(
        '[model]\nstart = "run"\n[data]\nname = "zinc250k"\n[training]\nsteps = 1\n'
    )
    before = content(surroundings)
    err = refused(*words, code=2)
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert words[-1] in err and words[-2].removesuffix("x") in err
    assert content(surroundings) == before


def test_shards_do_not_replace_what_a_filter_reads(refused, model_folder, surroundings):
    (surroundings / "part-1.smi").write_text(MOLECULES)
    command = ["generate", "--model", model_folder, "-n", 2000, "--shard", "all/2", "--force"]
    err = refused(*command, "--min-similarity", "part-1.smi:0", "--out", "part.smi", code=2)
    assert "part-1.smi is an input file" in err
    assert (surroundings / "part-1.smi").read_text() == MOLECULES


def test_what_is_not_read_may_be_written(run, run_folder, surroundings):
    """Curves, files beside a run or in an own one, and what only has the name of something read."""
    for name in ("zinc250k", "qed", "data"):
        (surroundings / name).mkdir()
    (surroundings / "data" / "a.smi").write_text(MOLECULES)
    (surroundings / "mine.smi").write_text(MOLECULES)
    for name in ("curves.svg", "curves.png"):
        run("plot", "run", "--out", f"run/{name}")
    run("plot", "run")
    for words in (
        ("stereoisomers", "CC(O)F", "--out", "zinc250k/x.csv"),
        ("score", "mine.smi", "--model", "run", "--out", "run.csv"),
        ("evaluate", "data", "--reference", "none", "--out", "data/report.md"),
        ("optimize", "--score", "qed", "--budget", 3, "--model", "run", "--workers", 0,
         "--out", "qed/x.csv", "--folder", "search"),
        ("optimize", "--score", "qed", "--budget", 3, "--model", "run", "--workers", 0,
         "--out", "search/x.csv", "--folder", "search"),
    ):  # fmt: skip
        run(*words)


def test_it_is_refused_before_anything_is_loaded(run_folder, surroundings):
    (surroundings / "mine.smi").write_text(MOLECULES)
    words = ["score", "mine.smi", "--model", "run", "--out", "run/metrics.csv"]
    code = (
        "import sys; from graphcnf.scripts.cli import main\n"
        f"try: main({words!r})\n"
        "finally: print([name for name in ('torch', 'rdkit', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "[]\n"), done.stderr
