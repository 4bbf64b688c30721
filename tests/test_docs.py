"""The examples in the README and in the documentation do what they say, and nothing is left out.

Python blocks and doctests run in the order in which they stand, in one namespace per document, as
for somebody who follows it. C blocks are files with their caption's name, and the gcc command that
stands under them is run as it stands, with more warnings.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from docutils.core import publish_doctree
from sybil import Document, Example
from sybil.parsers.rest import CodeBlockParser, DocTestParser, PythonCodeBlockParser

import percpu

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ["README.rst", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.rst"))]


def write_file(example: Example) -> None:
    """A C block is the file that its caption names."""
    Path(example.region.lexemes["options"]["caption"]).write_text(example.parsed)


def compile_it(example: Example) -> None:
    """Of the shell blocks only those that compile an example are run: others install things."""
    if example.parsed.startswith("gcc "):
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        strict = example.parsed.replace("gcc ", "gcc -Wall -Wextra -Wpedantic -Werror ", 1)
        command = ["bash", "-e", "-c", strict]
        subprocess.run(command, check=True, env={**os.environ, "PATH": path})


def examples(document: str) -> list[Example]:
    parsers = [
        PythonCodeBlockParser(),
        DocTestParser(),
        CodeBlockParser(language="c", evaluator=write_file),
        CodeBlockParser(language="sh", evaluator=compile_it),
    ]
    return list(Document.parse(str(ROOT / document), *parsers).examples())


WITH_EXAMPLES = [
    document
    for document in DOCUMENTS
    if "\n.. code-block:: python" in (ROOT / document).read_text()
]


@pytest.mark.parametrize("document", WITH_EXAMPLES)
def test_examples_do_what_they_say(
    document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for example in examples(document):
        example.evaluate()


def test_readme_and_quickstart_have_examples() -> None:
    assert {"README.rst", "docs/quickstart.rst"} <= set(WITH_EXAMPLES)


def test_readme_is_plain_rest() -> None:
    """Package indexes show it without Sphinx, and only if docutils has nothing to say about it."""
    text = (ROOT / "README.rst").read_text()
    publish_doctree(text, settings_overrides={"halt_level": 1, "report_level": 1})


def test_every_public_name_of_the_package_is_in_the_reference() -> None:
    reference = (ROOT / "docs/python.rst").read_text()
    documented = set(re.findall(r"^\.\. auto\w+:: percpu\.(\w+)$", reference, re.MULTILINE))
    assert documented == {name for name in percpu.__all__ if not name.startswith("__")}


def test_every_header_is_in_the_reference() -> None:
    reference = (ROOT / "docs/c.rst").read_text()
    documented = set(re.findall(r"^\.\. c-header:: (\S+)$", reference, re.MULTILINE))
    assert documented == {path.name for path in ROOT.glob("csrc/include/percpu/*.h")}


def test_everything_public_has_a_docstring() -> None:
    for name in percpu.__all__:
        thing: Any = getattr(percpu, name)
        assert name.startswith("__") or thing.__doc__, name
        for attribute, member in vars(thing).items() if isinstance(thing, type) else ():
            # An attribute that instances set is None here: the class's docstring speaks of it.
            if not attribute.startswith("_") and member is not None:
                assert len((member.__doc__ or "").split()) > 1, f"{name}.{attribute}"


def test_the_names_page_names_what_there_is() -> None:
    """Every C function and every method in its tables exists."""
    table = (ROOT / "docs/names.rst").read_text()
    in_c = re.findall(r"^   \* - .*\n     - (.*)\n", table, re.MULTILINE)
    functions = re.findall(r"\b(percpu_\w+)\(", " ".join(in_c))
    headers = "".join(path.read_text() for path in ROOT.glob("csrc/include/percpu/*.h"))
    declared = set(re.findall(r"\b(percpu_\w+)\(", headers.replace("_##S", "_S")))
    assert len(functions) > 20
    assert set(functions) <= declared
    classes = {
        "v": percpu.PerCpuVar,
        "c": percpu.PerCpuCounter,
        "r": percpu.PerCpuRef,
        "item": percpu.PerCpuItem,
    }
    methods = re.findall(r"``(v|c|r|item)\.(\w+)", table)
    assert len(methods) > 45
    for letter, name in methods:
        assert hasattr(classes[letter], name), f"{letter}.{name}"
