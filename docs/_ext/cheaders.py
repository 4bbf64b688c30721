"""The C reference, made from the headers: a directive that documents one header.

``.. c-header:: pool.h`` becomes the header's own comment followed by every declaration in it, each
under the comment that stands before it. The headers stay plain C with plain comments:

* a declaration without a comment of its own belongs to the comment before it, so one comment can
  speak of a family of functions;
* text that is indented inside a comment is a drawing or a table, and is shown as it is;
* the comment beside a field, an enumerator or a macro documents it, and so does one before a field;
* ``percpu_name()`` becomes a link wherever that function is documented.

Only the layout that the project's headers have is understood: top-level declarations start in the
first column. Anything else is an error, not a gap in the reference.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
ATTRIBUTES = re.compile(
    r"\b(PERCPU_API|PERCPU_INLINE|PERCPU_COLD|extern)\b|__attribute__\(\(.*?\)\)"
)
PUBLIC = re.compile(
    r"^(?:extern )?PERCPU_(?:API|INLINE)\b[^;{(]*?\b(percpu_\w+)\s*[(;]", re.MULTILINE
)
INLINE = re.compile(
    r"`(?P<quoted>[^`]+)`"
    r"|(?P<name>(?P<function>\b\w+)\(\)"
    r"|\b[\w/]*[A-Za-z0-9]_\w+(?:(?:\.|->)\w+)*(?:=[\w|]+)?|\b\w+\.[ch]\b)"
    r"|(?P<emphasis>\*\w+\*)"
    r"|(?P<special>[\\*|`_])"
)


@dataclass
class Member:
    """A field or an enumerator, and what the comment beside it says."""

    declaration: str
    comment: str


@dataclass
class Entry:
    """One comment and the declarations that it speaks of."""

    line: int
    comment: str
    kind: str = "text"  # text, function, struct, enum, macro or var
    declarations: list[str] = field(default_factory=list)
    members: list[Member] = field(default_factory=list)


@dataclass
class Header:
    """What was found in a header."""

    name: str
    comment: str
    entries: list[Entry]


def comment_text(comment: str) -> str:
    """The text of a block comment, without its frame."""
    body = re.sub(r"^/\*+", "", comment)[:-2]
    lines = [re.sub(r"^\s*\* ?", "", line) for line in body.split("\n")[1:]]
    first = body.split("\n")[0].strip()
    text = "\n".join(([first] if first else []) + lines)
    return textwrap.dedent(text).strip("\n").rstrip()


def parse(name: str, source: str) -> Header:
    """Take a header apart."""
    lines = source.split("\n")
    header = Header(name, "", [])
    pending: tuple[int, str] | None = None
    at = 0

    def flush() -> None:
        nonlocal pending
        if pending is not None:
            header.entries.append(Entry(pending[0] + 1, pending[1]))
        pending = None

    while at < len(lines):
        line, start = lines[at], at
        if not line.strip():
            flush()
        elif line.startswith("/*"):
            flush()
            while "*/" not in lines[at]:
                at += 1
            text = comment_text("\n".join(lines[start : at + 1]))
            if not text.startswith("SPDX-"):
                if header.comment:
                    pending = (start, text)
                else:
                    header.comment = text
        elif line.startswith("#"):
            while lines[at].endswith("\\"):
                at += 1
            if at == start:
                add_macro(header, line, pending, start)
            else:
                header.entries.append(Entry(start + 1, ""))
            pending = None
        elif re.match(r"[A-Za-z_]", line):
            while not complete("\n".join(lines[start : at + 1])):
                at += 1
                if at == len(lines):
                    raise ExtensionError(f"{name}:{start + 1}: this declaration has no end")
            add_declaration(header, "\n".join(lines[start : at + 1]), pending, start)
            pending = None
        else:
            raise ExtensionError(f"{name}:{at + 1}: not understood: {line!r}")
        at += 1
    flush()
    if not header.comment:
        raise ExtensionError(f"{name}: no comment says what lives there")
    if missed := set(PUBLIC.findall(source)) - names(header, "function", "var"):
        raise ExtensionError(f"{name}: declared, and not found: {', '.join(sorted(missed))}")
    return header


def complete(source: str) -> bool:
    """Whether a declaration or a macro call ends here."""
    code = COMMENT.sub("", source).rstrip()
    if re.fullmatch(r"[A-Z_]+\([^()]*\)", code):
        return True
    return code.count("{") == code.count("}") and code.endswith((";", "}"))


def add_macro(header: Header, line: str, pending: tuple[int, str] | None, at: int) -> None:
    """``#define NAME value /* comment */``, where either comment makes it part of the reference."""
    match = re.match(r"#define (\w+)(\([^)]*\))?\s+(.*?)\s*(?:/\*\s*(.*?)\s*\*/)?$", line)
    if match is None or (pending is None and match[4] is None):
        return
    comment = pending[1] if pending else match[4]
    header.entries.append(Entry(at + 1, comment, "macro", [match[1] + (match[2] or "")]))


def add_declaration(header: Header, source: str, pending: tuple[int, str] | None, at: int) -> None:
    """A function, a struct, an enum or a variable."""
    if source.startswith("_Static_assert") or re.match(r"[A-Z_]+\(", source):
        return  # a claim; or a macro that makes the functions that the file comment lists
    aggregate = re.match(r"(?:typedef )?(struct|enum)(?: (\w+))? \{(.*)\}", source, re.DOTALL)
    opaque = re.match(r"struct (\w+);", source)
    if aggregate:
        entry = Entry(at + 1, pending[1] if pending else "", aggregate[1], [aggregate[2]])
        entry.members = members(aggregate[3], aggregate[1])
        header.entries.append(entry)
        return
    if opaque:
        header.entries.append(
            Entry(at + 1, pending[1] if pending else "Opaque.", "struct", [opaque[1]])
        )
        return
    code = COMMENT.sub("", source).split("{")[0].rstrip().rstrip(";")
    code = re.sub(r"\s+", " ", ATTRIBUTES.sub("", code)).strip()
    if code.startswith("typedef "):
        header.entries.append(Entry(at + 1, pending[1] if pending else "", "type", [code[8:]]))
        return
    kind = "function" if "(" in code else "var"
    last = header.entries[-1] if header.entries else None
    if pending is None and last is not None and last.kind == kind:
        last.declarations.append(code)
    else:
        header.entries.append(Entry(at + 1, pending[1] if pending else "", kind, [code]))


def members(body: str, kind: str) -> list[Member]:
    """The fields of a struct, or the enumerators of an enum, with the comments beside them."""
    found: list[Member] = []
    separator = ";" if kind == "struct" else ","
    pattern = re.compile(
        rf"\s*(/\*.*?\*/)?\s*((?:[^{separator}/]|/(?!\*))+)(?:{separator}|\Z)"
        rf"[^\S\n]*(/\*.*?\*/)?",
        re.DOTALL,
    )
    for match in pattern.finditer(body):
        code = re.sub(r"\s+", " ", match[2]).strip()
        comment = " ".join(re.sub(r"\s+", " ", comment_text(c)) for c in match.group(1, 3) if c)
        if not code:
            continue
        if kind == "enum" or "(" in code:  # an enumerator, or a pointer to a function
            found.append(Member(code, comment))
            continue
        # "size_t a, b" is two fields of one type.
        first, *others = code.split(", ")
        base = re.sub(r"[*\w\[\]]+$", "", first)
        found.append(Member(first, "" if others else comment))
        found += [Member(base + other, "") for other in others[:-1]]
        found += [Member(base + other, comment) for other in others[-1:]]
    return found


def inline(text: str, known: set[str]) -> str:
    """A paragraph of a comment as reST: names are code, known functions are links."""

    def as_rst(match: re.Match[str]) -> str:
        if match["special"]:
            return "\\" + match["special"]
        if match["function"] in known:
            markup = f":c:func:`{match['function']}`"
        elif match["emphasis"]:
            markup = match["emphasis"]
        else:
            markup = f"``{match['quoted'] or match['name']}``"
        # Markup must stand between spaces or punctuation; an escaped space is not shown.
        before = "" if re.search(r"(^|[\s(\[{'\"/:-])$", text[: match.start()]) else "\\ "
        after = "" if re.match(r"$|[\s)\]}'\"/:.,;!?-]", text[match.end() :]) else "\\ "
        return before + markup + after

    marked = INLINE.sub(as_rst, text)
    return re.sub(r"^([-+])", r"\\\1", marked)


def to_rst(comment: str, known: set[str]) -> list[str]:
    """A comment as lines of reST: paragraphs, and what is indented as literal blocks."""
    out: list[str] = []
    for indented, block in blocks(comment):
        if indented:
            out += [".. code-block:: text", "   :class: drawn", ""]
            out += [*textwrap.indent("\n".join(block), "   ").split("\n"), ""]
        else:
            out += [inline(" ".join(block), known), ""]
    return out


def blocks(comment: str) -> list[tuple[bool, list[str]]]:
    """Paragraphs, and runs of indented lines with the blank lines between them."""
    found: list[tuple[bool, list[str]]] = []
    fresh = True
    for line in comment.split("\n"):
        if not line.strip():
            fresh = True
            continue
        indented = line.startswith("  ")
        if found and found[-1][0] == indented and (indented or not fresh):
            found[-1][1].extend([""] if fresh else [])
            found[-1][1].append(line)
        else:
            found.append((indented, [line]))
        fresh = False
    return [(i, textwrap.dedent("\n".join(block)).split("\n")) for i, block in found]


def declared(declaration: str) -> str:
    """The name that a declaration of a function or a variable declares."""
    match = re.search(r"(\w+)(?:\(|$)", declaration)
    if match is None:
        raise ExtensionError(f"what does this declare? {declaration!r}")
    return match[1]


def names(header: Header, *kinds: str) -> set[str]:
    """The names of everything of these kinds in a header."""
    return {
        declared(declaration)
        for entry in header.entries
        if entry.kind in kinds
        for declaration in entry.declarations
    }


def render(header: Header, known: set[str]) -> list[tuple[str, int]]:
    """The header as lines of reST, each with the line of the header that it comes from."""
    title, _, rest = header.comment.partition(" - ")
    if title != header.name:
        raise ExtensionError(f"{header.name}: its comment starts with {title!r}")
    if "_" not in rest.split()[0]:
        rest = rest[:1].upper() + rest[1:]
    out = [(line, 1) for line in to_rst(rest, known)]
    for entry in header.entries:
        body = to_rst(entry.comment, known) if entry.comment else []
        if entry.kind == "text":
            out += [(line, entry.line) for line in body]
            continue
        indent = " " * len(f".. c:{entry.kind}:: ")
        text = [f".. c:{entry.kind}:: {entry.declarations[0]}"]
        text += [indent + declaration for declaration in entry.declarations[1:]]
        text += ["", *("   " + line for line in body)]
        directive = "member" if entry.kind == "struct" else "enumerator"
        for member in entry.members:
            text += [f"   .. c:{directive}:: {member.declaration}", ""]
            if member.comment:
                text += [f"      {inline(member.comment, known)}", ""]
        out += [(line, entry.line) for line in text]
    return out


class CHeader(SphinxDirective):
    """``.. c-header:: NAME``: everything in the header of that name."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Turn the header into nodes."""
        folder = Path(self.config.c_header_folder)
        headers = {}
        for path in sorted(folder.glob("*.h")):
            self.env.note_dependency(str(path))
            headers[path.name] = parse(path.name, path.read_text(encoding="utf-8"))
        name = self.arguments[0]
        if name not in headers:
            raise self.error(f"no header {name!r} in {folder}")
        known = set().union(*(names(header, "function") for header in headers.values()))
        content = StringList()
        for line, number in render(headers[name], known):
            content.append(line, str(folder / name), number)
        return self.parse_content_to_nodes(content)

    def parse_content_to_nodes(self, content: StringList) -> list[nodes.Node]:
        """Parse reST that did not come from this document."""
        node = nodes.Element()
        self.state.nested_parse(content, 0, node)
        return node.children


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive and where the headers are."""
    app.add_config_value("c_header_folder", "", "env", str)
    app.add_directive("c-header", CHeader)
    return {"parallel_read_safe": True}
