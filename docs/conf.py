"""Sphinx configuration. The package must be installed: the Python reference is its docstrings."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "_ext"))

project = "percpu"
author = "the percpu developers"
copyright = "the percpu developers, MIT licence"
release = version = version_of("percpu")

extensions = ["sphinx.ext.autodoc", "cheaders"]
exclude_patterns = ["_build"]
nitpicky = True

c_header_folder = str(HERE.parent / "csrc" / "include" / "percpu")
# What the C standard, POSIX and Python's own documentation define.
standard_types = "bool double int64_t intptr_t size_t uint8_t uint16_t uint32_t uint64_t uintptr_t"
nitpick_ignore = [("c:identifier", name) for name in standard_types.split()]
nitpick_ignore += [("py:mod", "array"), ("py:mod", "struct"), ("py:func", "len")]
nitpick_ignore += [
    ("py:class", "array.array"),
    ("py:class", "ctypes.Structure"),
    ("py:func", "time.monotonic"),
]
# A struct and the function that fills it share a name, which C allows and Sphinx's index does not.
suppress_warnings = ["duplicate_declaration.c"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"
add_module_names = False

html_theme = "furo"
html_title = f"percpu {release}"
html_static_path = ["_static"]
html_css_files = ["percpu.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f5fbf", "color-brand-content": "#1f5fbf"},
    "dark_css_variables": {"color-brand-primary": "#6ea8ff", "color-brand-content": "#6ea8ff"},
}
