"""docs/hooks.py and docs/docstrings.py: what the site adds to docs/. `mkdocs build --strict` checks the links."""

import re
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("mkdocs")  # comes with pyro-vae[docs]
pytest.importorskip("latex2mathml")
griffe = pytest.importorskip("griffe")

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import docstrings  # noqa: E402
import hooks  # noqa: E402


def page_of(uri):
    return SimpleNamespace(file=SimpleNamespace(src_uri=uri, abs_src_path=str(ROOT / "docs" / uri)))


@pytest.mark.parametrize("group", sorted(d.name for d in hooks.CONF.iterdir() if d.is_dir() and d.name != "hydra"))
def test_every_option_has_a_section(group):
    uri = "reference/options.md"
    page = hooks.on_page_markdown((ROOT / "docs" / uri).read_text(), page_of(uri))
    names = [p.relative_to(hooks.CONF / group).with_suffix("").as_posix() for p in (hooks.CONF / group).rglob("*.yaml")]
    assert set(re.findall(rf"^### {group}=(\S+) ", page, flags=re.MULTILINE)) == set(names)


def test_the_groups_of_a_command_lead_to_their_options():
    assert "| `guide` | `diagonal` | [options](#guide) |" in hooks.options("commands")


def test_an_option_shows_its_class_settings_and_comments():
    section = hooks.options("guide").partition("### guide=low_rank")[2].partition("\n### ")[0]
    first_line = (hooks.CONF / "guide" / "low_rank.yaml").read_text().splitlines()[0].removeprefix("# ")
    assert f"{first_line}. [`pyro_vae.guides.LowRank`][pyro_vae.guides.LowRank]." in section
    assert "| `rank` | `4` | columns of W |" in section


def test_settings_are_read_as_the_file_has_them(tmp_path):
    lines = """
        # @package _global_
        # what it is,
        # in two lines
        defaults:
          - bernoulli
          - override /guide: point  # no density
          - _self_

        data:  # its place
          path: null
        list: [1, 2]  # a comment
                      # that goes on
        hydra:
          # of Hydra
          run:
            dir: x
          launcher:
            n_jobs: -1  # jobs
        _partial_: true
        _target_: a.B
        """
    (tmp_path / "option.yaml").write_text(textwrap.dedent(lines))
    option = hooks.read(tmp_path / "option.yaml")
    assert (option.description, option.target) == ("what it is, in two lines", "a.B")
    assert option.settings == [
        ["experiment", "bernoulli", ""],
        ["guide", "point", ""],
        ["data", "", "its place"],
        ["data.path", "null", ""],
        ["list", "[1, 2]", "a comment that goes on"],
        ["hydra.launcher.n_jobs", "-1", "jobs"],
    ]


def test_a_notebook_gets_mathml_and_links_to_pages():
    text = "see $z_1$ and [this](../docs/explanation/bounds.md):\n\n$$\\frac12$$"
    cells = [{"cell_type": "markdown", "source": [text]}, {"cell_type": "code", "source": ["print('$a$')"]}]
    markdown, code = hooks.for_site({"cells": cells})["cells"]
    assert re.fullmatch(r"see <span><math.*</math></span> and \[this\]\((.*)\):\n\n<math.*</math>", markdown["source"])
    assert "](../../explanation/bounds/)" in markdown["source"]
    assert "<mfrac>" in markdown["source"]
    assert code["source"] == ["print('$a$')"]


def test_a_page_gets_mathml_outside_of_code():
    code = "`$HOME` and\n\n```sh\necho $a $b\n```\n"
    page = hooks.on_page_markdown(f"{code}$z_1$ starts a line\n\n$$\n\\log p\n$$\n", page_of("explanation/x.md"))
    assert page.startswith(code)
    inline, block = page.removeprefix(code).split(" starts a line\n\n")
    assert re.fullmatch(r"<span><math.*<msub>.*</math></span>", inline)
    assert "<mi>log</mi><mspace" in block
    assert re.fullmatch(r'<math[^>]*display="block".*</math>\n', block)


def test_links_out_of_docs_lead_into_the_site_or_become_text():
    page = page_of("how-to/x.md")
    markdown = "[a](../../notebooks/01_quickstart.ipynb) [b](../../pyro_vae/vae/vae.py) [c](../explanation/bounds.md)"
    mended = hooks.on_page_markdown(markdown, page)
    assert mended == "[a](../notebooks/01_quickstart.ipynb) b [c](../explanation/bounds.md)"


def test_scripts_of_other_servers_are_left_out():
    own, foreign = "<script>f()</script>", '<script type="module">import m from "https://cdn/x.js"\n</script>'
    assert hooks.on_page_content(f"a{own}b{foreign}c", page_of("notebooks/x.ipynb")) == f"a{own}bc"


def test_docstrings_are_text():
    text = "Formula (m, s)_d of z_{<d} and `a_b`.\n\n    w_{K−1}\n\nExample:\n    >>> f(x) < 2  # z_{1}"
    obj = griffe.Function("f", docstring=griffe.Docstring(text))
    docstrings.Plain().on_object(obj=obj)
    assert obj.docstring.value == (
        "Formula (m, s)\\_d of z\\_{&lt;d} and `a_b`.\n\n    w_{K−1}\n\nExamples:\n    >>> f(x) < 2  # z_{1}"
    )
