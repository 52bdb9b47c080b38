"""What `mkdocs build` adds to the pages of docs/: the notebooks and their figures, and the tables of options."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from latex2mathml.converter import convert
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
COMMANDS = ("train", "evaluate", "score", "compare", "search", "benchmark")
ALONE = ("index.md", "reproductions.md")
"""Pages without neighbours in the navigation: without its columns, wide tables have room."""
SHADOWED = {"pyro_vae.data.table": "pyro_vae.data.table.table"}
"""Functions whose short path is also that of their module, with their full one."""

_copies = TemporaryDirectory(prefix="pyro_vae_notebooks_")


# Notebooks, which lie beside docs/ --------------------------------------------------------------------


@event_priority(100)  # before mkdocs-jupyter looks for notebooks
def on_files(files: Any, config: Any) -> Any:
    """Add the notebooks, with their formulas as MathML, and the figures beside them."""
    folder = Path(_copies.name, "notebooks")
    folder.mkdir(exist_ok=True)
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        (folder / path.name).write_text(json.dumps(for_site(json.loads(path.read_text()))))
        files.append(_file(path, _copies.name, config))
    for path in sorted((ROOT / "notebooks" / "figures").glob("*.png")):
        files.append(_file(path, str(ROOT), config))
    return files


def _file(path: Path, folder: str, config: Any) -> File:
    return File(path.relative_to(ROOT).as_posix(), folder, config.site_dir, config.use_directory_urls)


def for_site(notebook: dict[str, Any]) -> dict[str, Any]:
    """Direct a notebook's links to pages, and replace its formulas by MathML."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            text = re.sub(r"\]\(\.\./docs/([^)#]+)\.md", r"](../../\1/", "".join(cell["source"]))
            cell["source"] = with_formulas(text)
    return notebook


def with_formulas(markdown: str) -> str:
    """Replace formulas by MathML, which browsers draw without a script; code stays as it is."""
    code, formulas = r"^ *```.*?^ *```$|`[^`]*`", r"\$\$(.+?)\$\$|\$([^$]+?)\$"
    return re.sub(f"{code}|{formulas}", _mathml, markdown, flags=re.DOTALL | re.MULTILINE)


def _mathml(found: re.Match[str]) -> str:
    block, inline = found.groups()
    if not (block or inline):
        return found[0]
    markup = convert(block or inline, display="block" if block else "inline")
    markup = re.sub(r"\s*\n\s*", " ", markup)  # an empty line would end it
    # a space after the name of a function, as in log p
    markup = re.sub(r"(<mi>log</mi>|<msub><mi>log</mi>.*?</msub>)(?!<mo[ >])", r'\1<mspace width="0.17em" />', markup)
    return markup if block else f"<span>{markup}</span>"  # Markdown would take a line's first <math> for a block


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """Leave out the scripts of notebooks that would be loaded from other servers: none of ours needs them."""
    if not page.file.src_uri.endswith(".ipynb"):
        return content
    scripts = r"<script\b(?:(?!</script>).)*?https?://(?:(?!</script>).)*</script>"
    return re.sub(scripts, "", content, flags=re.DOTALL)


# Pages ------------------------------------------------------------------------------------------------


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Mend links that lead out of docs/, draw formulas, and fill in the tables of options."""
    if not page.file.src_uri.endswith(".md"):
        return markdown
    folder = Path(page.file.abs_src_path).parent
    if page.file.src_uri in ALONE:
        page.meta["hide"] = ["navigation", "toc"]

    def mended(link: re.Match[str]) -> str:
        path = (folder / link[2]).resolve()
        if path.is_relative_to(ROOT / "notebooks"):  # in the site they are below docs/
            return link[0].replace("../", "", 1)
        is_page = path.is_relative_to(ROOT / "docs") and not path.is_dir()
        return link[0] if is_page or not path.exists() else link[1]  # the site has no other files, and no folders

    markdown = with_formulas(re.sub(r"\[([^\]]*)\]\(([^):#]+)[^)]*\)", mended, markdown))
    return re.sub(r"<!-- options of (\w+) -->", lambda found: options(found[1]), markdown)


# Options, from the files of conf/ ---------------------------------------------------------------------


@dataclass
class Option:
    """A file of conf/: its first comment lines, the class that it names, and its settings."""

    description: str = ""
    target: str = ""
    settings: list[list[str]] = field(default_factory=list)
    """Rows of key, value and comment."""


def options(group: str) -> str:
    """Return the options of a group, or of the `commands`, in Markdown."""
    return "\n".join(_commands() if group == "commands" else _group(group))


def _commands() -> Iterator[str]:
    for name in COMMANDS:
        option = read(CONF / f"{name}.yaml")
        usage, _, what = option.description.partition(": ")
        settings = [[k, v, about or _of_group(k)] for k, v, about in option.settings]
        yield from (f"### {name} {{ #{name} }}", "", f"`{usage}`: {_text(what)}", "", *_table(settings))


def _of_group(key: str) -> str:
    """Return a link to the options of a group, or nothing for other keys."""
    return f"[options](#{key})" if (CONF / key).is_dir() else ""


def _group(group: str) -> Iterator[str]:
    for path in sorted((CONF / group).rglob("*.yaml")):
        name = path.relative_to(CONF / group).with_suffix("").as_posix()
        option = read(path)
        yield from (f"### {group}={name} {{ #{group}-{name.replace('/', '-')} }}", "")
        target = option.target and f"`{option.target}`"
        if option.target.startswith("pyro_vae."):
            target = f"[{target}][{SHADOWED.get(option.target, option.target)}]"
        text = ". ".join(filter(None, [_text(option.description), target]))
        yield from (f"{text}." if text else "", "", *_table(option.settings))


def _table(settings: list[list[str]]) -> Iterator[str]:
    if settings:
        yield from ("| key | default | meaning |", "| --- | --- | --- |")
        for key, value, comment in settings:
            yield f"| `{key}` | {value and f'`{value}`'} | {_text(comment)} |"
        yield ""


def _text(comment: str) -> str:
    return html.escape(comment, quote=False).replace("|", "&#124;").replace("*", r"\*")


def read(path: Path) -> Option:
    """Read an option's file together with its comments."""
    option, parents, row = Option(), list[tuple[int, str]](), None
    for line in path.read_text().splitlines():
        comment = re.fullmatch(r"\s*# (.*)", line)
        setting = re.fullmatch(r"( *)([\w.]+):(?: +([^#\s].*?))?(?: +# (.*))?", line)
        chosen = re.fullmatch(r" *- (?:override /)?([\w/]+)(?:@[\w.]+)?(?:: (\w+))?(?: +# .*)?", line)
        if comment and not parents:
            option.description += "" if comment[1].startswith("@package") else f" {comment[1]}"
        elif comment and row:  # it goes on below its setting
            row[2] += f" {comment[1]}"
        elif setting:
            indent, name, value, about = len(setting[1]), setting[2], setting[3] or "", setting[4] or ""
            parents = [*(parent for parent in parents if parent[0] < indent), (indent, name)]
            key, row = ".".join(name for _, name in parents), None
            if key == "_target_":
                option.target = value
            elif (value or about) and not re.match(r"_|hydra\.(?!launcher)", key):
                row = [key, value, about]
                option.settings.append(row)
        elif chosen and chosen[1] not in ("_self_", "hydra/job_logging"):
            option.settings.append([chosen[1], chosen[2], ""] if chosen[2] else ["experiment", chosen[1], ""])
    option.description = option.description.strip()
    return option
