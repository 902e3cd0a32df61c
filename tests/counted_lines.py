"""Lines of docstrings and of code in a file."""

import ast


def lines_of(path):
    """The number of lines of a file in docstrings, and of its lines of code."""
    text = path.read_text(encoding="utf-8")
    said = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            said |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    rest = [line.strip() for k, line in enumerate(text.split("\n"), 1) if k not in said]
    return len(said), sum(bool(line) and not line.startswith("#") for line in rest)
