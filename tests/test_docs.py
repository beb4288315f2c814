"""The pages: links lead somewhere, both languages give the same commands, and every module is on its way."""

import re
from pathlib import Path

import pytest
from pairs import ROOT


PAGES = sorted([ROOT / "README.md", ROOT / "README_zh.md", *ROOT.glob("docs/*.md")])
IN_BOTH = [page for page in PAGES if page.with_stem(f"{page.stem}_zh").is_file()]


def text_of(page: Path) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))


def headings(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"(?m)^#+ (.+)$", text_of(page))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        file, _, anchor = link.partition("#")
        if not file.startswith("http"):
            target = (page.parent / file).resolve() if file else page
            assert target.exists(), link
            assert not anchor or anchor in headings(target), link


@pytest.mark.parametrize("page", IN_BOTH, ids=lambda page: page.name)
def test_both_languages_give_the_same_commands(page):
    """Comments are translated, and so is the name of this repository."""

    def commands(page: Path) -> list[str]:
        blocks = re.findall(r"(?ms)^```bash\n(.*?)^```", page.read_text(encoding="utf-8"))
        lines = [re.sub(r"\s+#.*|<.*?>", "", line) for block in blocks for line in block.splitlines()]
        return [line for line in lines if line and not line.startswith("#")]

    assert commands(page) == commands(page.with_stem(f"{page.stem}_zh"))


def test_every_module_is_named_on_the_way_of_a_batch():
    package = ROOT / "LlamaFactory" / "src" / "llamafactory" / "train" / "uni_dpo"
    modules = {str(file.relative_to(package)) for file in package.rglob("*.py") if file.name != "__init__.py"}
    named = set(re.findall(r"`((?:\w+/)*\w+\.py)`", (ROOT / "docs" / "development.md").read_text()))
    assert modules <= named
    assert {name for name in named if "/" in name and not name.startswith("train/")} <= modules
