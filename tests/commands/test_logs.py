"""Messages of the commands: their levels, on screen and in train.log."""

import ast
import logging
from pathlib import Path

import pytest
import yaml

import pyro_vae
from pyro_vae.commands.logs import PREFIXES, PrintableFormatter
from pyro_vae.programs.notes import NOTE
from pyro_vae.runs.config import CONFIG_DIR


@pytest.mark.parametrize(
    ("level", "line"),
    [(logging.INFO, "50 % done"), (NOTE, "note: 50 % done"), (logging.WARNING, "warning: 50 % done")],
)
def test_the_formatter_says_the_level_once_whatever_the_number_of_handlers(level, line):
    record = logging.LogRecord("pyro_vae", level, "file.py", 1, "%d %% done", (50,), None)
    for _ in range(2):
        assert PrintableFormatter("%(message)s").format(record) == line
        assert PrintableFormatter("[time] %(message)s").format(record) == f"[time] {line}"


def test_no_message_begins_with_its_level():
    """The formatter would say it twice."""
    package = Path(pyro_vae.__file__).parent
    for path in package.rglob("*.py"):
        if path.name == "logs.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not node.value.startswith(tuple(PREFIXES.values())), f"{path}:{node.lineno}"


def test_screen_and_file_use_the_formatter():
    for path in (CONFIG_DIR / "hydra" / "job_logging").glob("*.yaml"):
        formatters = yaml.safe_load(path.read_text())["formatters"]
        assert {each["class"] for each in formatters.values()} == {"pyro_vae.commands.logs.PrintableFormatter"}
