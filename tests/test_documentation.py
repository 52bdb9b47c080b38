"""README.md and docs/: their links, what they say of conf/, and every block of code, page by page and in its order."""

import re
import shlex
import unicodedata
from itertools import count
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import numpy as np
import pyro
import pytest
import torch
from conftest import write_idx
from PIL import Image

import pyro_vae
from pyro_vae.runs.config import CONFIG_DIR

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FILES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in FILES}


@pytest.mark.parametrize("group", sorted(d.name for d in CONFIG_DIR.iterdir() if d.is_dir() and d.name != "hydra"))
def test_every_axis_has_a_row_in_the_readme(group):
    (row,) = re.findall(rf"^\| \[`\+?{group}`\]\(conf/{group}\) \| (.*?) \|$", README, flags=re.MULTILINE)
    named = set(re.findall(r"`(\w+)`", row))
    options = {f.stem for f in (CONFIG_DIR / group).glob("*.yaml")}
    assert named <= options
    assert named == options or "…" in row


def test_the_readme_fits_on_a_page():
    assert README.count("\n") <= 120
    assert max(map(len, README.splitlines())) <= 200


# Links ------------------------------------------------------------------------------------------------


def without_code(text):
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL))


def anchors(text):
    """Those of a page's headings that are the same on GitHub and on the site."""
    for heading in re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.M):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        github = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        ascii_ = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
        if github == re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_).strip().lower()):
            yield github


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(PAGES[page])):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        assert path.exists(), target
        if anchor:
            assert anchor in set(anchors(path.read_text())), target


# Blocks of code ---------------------------------------------------------------------------------------


class Block(NamedTuple):
    """A fenced block: commands, or what they print, or Python; with a title, a file to write."""

    kind: str
    title: str
    code: str

    @property
    def commands(self):
        if self.kind not in ("sh", "bash", "text"):
            return []
        lines = re.sub(r" *\\\n *", " ", self.code).splitlines()
        return [line for line in lines if line and (self.kind != "text" or line.startswith(("python -m", "torchrun")))]


def blocks_of(text):
    fences = re.findall(r'^( *)```(\w*)(?: title="(\S+)")?\n(.*?)^\1```$', text, flags=re.MULTILINE | re.DOTALL)
    return [Block(kind, title, dedent(code)) for _, kind, title, code in fences]


BLOCKS = {page: blocks_of(text) for page, text in PAGES.items() if page.startswith(("README", "docs/"))}
ELSEWHERE = {
    "torchrun": "test_distributed.py runs these in processes",
    "pytest": "they are tests",
    "pip install": ".ci/run installs",
    "git clone": "is what you have done",
    "cd ": "is what you have done",
    "mkdocs": ".ci/run builds the site",
    "python -m pyro_vae.benchmark": "test_benchmark.py runs it on small works",
    "python -m pyro_vae.train DIR": "a placeholder",
}
"""How commands begin that this file does not run, and why."""
OWN_TESTS = {"docs/programs.md", "docs/reference/programs.md"}
"""Pages of programs that are rejected: test_programs_page.py."""


def is_run(line):
    return not line.startswith(tuple(ELSEWHERE))


def test_every_block_is_of_a_kind_that_is_executed():
    for page, blocks in BLOCKS.items():
        assert len(re.findall(r"^ *```", PAGES[page], flags=re.MULTILINE)) == 2 * len(blocks), page
        assert {block.kind for block in blocks} <= {"sh", "bash", "text", "python", "yaml"}, page
        for block in blocks:
            for line in block.commands:
                assert re.match(r"python -m pyro_vae\b", line) or not is_run(line), (page, line)


def test_first_sh_blocks_are_those_that_ci_runs():
    blocks = [block.code for block in BLOCKS["README.md"] if block.kind == "sh"]
    assert [code.split()[0] for code in blocks] == ["pip", "pip"]
    assert "pyro_vae.train +experiment=bernoulli" in blocks[0]
    assert "pytest" in blocks[1]
    ci = (ROOT / ".ci" / "run").read_text()
    assert 'eval "$(block 1)"' in ci
    assert 'eval "$(block 2)"' in ci


QUICK = [  # last on the line: the last value holds
    "trainer.max_epochs=1",
    "trainer.batch_size=1000",
    "trainer.compile=false",
    "estimator=elbo",
    "estimator.num_samples=2",
]
NETWORK = ["network.hidden=[4]", "network.upper_hidden=[4]"]
DATA = ["data=array", "data.path=tiny.npz", "data.key=x", "data.label_key=y"]
WITHOUT = r"(trainer\.(max|batch|compile|precision|patience)|estimator[=.]|\+launcher=|network\.hidden)\S*"
"""Options that a short run has its own of, and engines that are not installed with the tests."""
SPLIT = re.compile(r"data=mnist\b|iwae_table1|kingma_welling/mnist|cremer|tomczak")


@pytest.fixture
def folder(command, tmp_path, small_run):
    """What commands name without making it: a run, and data, in the current folder."""
    rng = np.random.default_rng(0)
    x = rng.random((60, 12)).astype(np.float32)
    np.savez("my.npz", x=x)
    np.savez("tiny.npz", x=rng.random((60, 1, 8, 8)).round().astype(np.float32), y=np.arange(60) % 4)
    np.savez("frey_faces.npz", images=rng.integers(0, 256, (60, 28, 20), dtype=np.uint8))
    write_idx(tmp_path / "data" / "MNIST" / "raw")
    Path("my.csv").write_text(
        "age,colour\n" + "".join(f"{20 + 31 * i % 50}.5,{['red', 'green'][i % 2]}\n" for i in range(60))
    )
    for i in range(40):
        path = tmp_path / "photos" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return small_run


def shortened(line, run):
    """Return the command and its arguments, for a run of a second."""
    line = re.sub(r" +#.*", "", line).replace("seed=1,2,3", "seed=1,2")
    line = re.sub(r"\b(run|resume)=(DIR|outputs/\S+)", rf"\1={run}", line)
    _, _, module, *arguments = shlex.split(line)
    name = module.removeprefix("pyro_vae.")
    if any(argument.startswith("--") for argument in arguments):  # prints and ends
        return name, arguments
    if name in ("evaluate", "score"):
        kept = [a for a in arguments if not a.startswith(("num_data", "num_held_out", "estimator.num_samples"))]
        few = ["estimator.num_temperatures=3"] if re.search("estimator=(ais|bdmc)", line) else []
        return name, [*kept, *few, "num_data=3", "num_steps=5", *(["num_held_out=5"] if name == "score" else [])]
    if name == "compare":
        return name, arguments
    kept = [a for a in arguments if not re.fullmatch(WITHOUT, a)]
    if "resume=" in line:
        return name, [*kept, "trainer.max_epochs=3"]
    if SPLIT.search(line):
        data = ["data.root=data", "data.verify=false", f"data.num_val={0 if 'iwae_table1' in line else 5}"]
    else:
        data = [] if re.search(r"\bdata[=.](?!num_|binarize)", line) else DATA
    if "as_coded" in line:
        data.append("data.num_train=20")
    if "semi_supervised" in line:
        data.append("data.num_labels=8")
    network = [] if "network=conv" in line or "_target_" in line else NETWORK
    if "_target_" in line:
        network = ["network.hidden=[4]"]
    return name, [*kept, *data, *network, *QUICK, *(["num_trials=2"] if name == "search" else [])]


@pytest.fixture
def names(finished_run, tmp_path):
    """What Python blocks name without making it."""
    run = tmp_path / "outputs" / "bernoulli" / "2026-11-21_10-00-00"
    run.parent.mkdir(parents=True)
    run.symlink_to(finished_run)
    vae = pyro_vae.load(run)
    x = torch.bernoulli(torch.full((20, 12), 0.4))
    return {
        "pyro_vae": pyro_vae,
        "vae": vae,
        "model": vae.model,
        "guide": vae.guide,
        "x": x,
        "mask": torch.rand(20, 12) < 0.5,
        "z": vae.encode(x),
        "array": np.random.default_rng(0).random((60, 6)).astype(np.float32),
        "labels": np.arange(60) % 4,
    }


RUN = [page for page, blocks in BLOCKS.items() if page not in OWN_TESTS and any(b.code for b in blocks)]
QUICK_PAGES = {"README.md", "docs/how-to/programs.md", "docs/how-to/resume.md", "docs/reference/options.md"}
"""Pages that are executed by default; .ci/run executes the others, too."""


@pytest.mark.parametrize("page", [p if p in QUICK_PAGES else pytest.param(p, marks=pytest.mark.slow) for p in RUN])
def test_blocks_run_in_their_order(page, folder, names, command, as_traced, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    numbers = count()
    for block in BLOCKS[page]:
        if block.title:
            Path(block.title).write_text(block.code)
        elif block.kind == "python":
            pyro.clear_param_store()
            exec(re.sub(r"max_epochs=\d+", "max_epochs=1", block.code), names)
        for line in filter(is_run, block.commands):
            name, arguments = shortened(line, folder)
            if name == "train" and not re.search(r"hydra.run.dir=|resume=|train -m | --", line):
                # directories are named by seconds, in which two short runs may start
                arguments.append(f"hydra.run.dir={tmp_path / 'outputs' / str(next(numbers))}")
            outcome = command(name, *arguments)
            assert outcome.code == 0, f"{line}\n{outcome.err}"
