import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny():
    """The module tiny.py beside this file (the tests are no package to import it from)."""
    path = Path(__file__).with_name("tiny.py")
    spec = importlib.util.spec_from_file_location("graphcnf_tests_tiny", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
