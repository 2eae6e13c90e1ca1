"""The links of the documents lead somewhere, and docs/architecture.md names what the code has."""

import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]["Source"]
IN_THE_REPOSITORY = re.compile(
    rf"{re.escape(REPOSITORY)}/(?:blob|tree|raw)/main/(?P<path>[^#?]*)(?:#(?P<anchor>.*))?"
)
PACKAGE = ROOT / "idempotency_mw"

DOCUMENTS = sorted(
    path for folder in (ROOT, ROOT / ".github", ROOT / "docs") for path in folder.glob("*.md") if path.is_file()
) + sorted((ROOT / "docs").glob("*/*.md"))


def without_code(text: str) -> str:
    return re.sub(r"(?ms)^```.*?^```|`[^`\n]*`", "", text)


def links(text: str) -> list[str]:
    """Return where the links and pictures of a document lead to."""
    inline = re.findall(r"\]\(<?([^)>\s]+)>?(?:\s+\"[^\"]*\")?\)", without_code(text))
    return inline + re.findall(r"(?m)^\[[^\]]+\]:\s*(\S+)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)


@cache
def anchors(path: Path) -> frozenset[str]:
    """Return the names of a document's headings, as GitHub makes them."""
    text = re.sub(r"(?ms)^```.*?^```", "", path.read_text("utf-8"))
    found: list[str] = []
    for heading in re.findall(r"(?m)^#{1,6}\s+(.*?)\s*#*$", text):
        name = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", name).replace(" ", "-")
        found.append(f"{name}-{found.count(name)}" if name in found else name)
    return frozenset(found)


def problems(document: Path) -> Iterator[str]:
    """Yield the links of a document that lead nowhere."""
    for link in links(document.read_text("utf-8")):
        in_repository = IN_THE_REPOSITORY.fullmatch(link)
        if in_repository:
            path, anchor = ROOT / unquote(in_repository["path"]), in_repository["anchor"]
        elif re.match(r"[a-z]+:", link):
            continue
        else:
            name, _, anchor = link.partition("#")
            path = document.parent / unquote(name) if name else document
        if not path.exists():
            yield f"{link}: there is no such file"
        elif anchor and path.suffix == ".md" and anchor not in anchors(path.resolve()):
            yield f"{link}: there is no such heading"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(document: Path) -> None:
    assert list(problems(document)) == []


def test_links_of_the_readme_work_on_a_page_of_a_package_index() -> None:
    """There is no file beside it there."""
    relative = [
        link for link in links((ROOT / "README.md").read_text("utf-8")) if not re.match(r"[a-z]+:|#", link)
    ]
    assert relative == []


def test_links_to_the_repository_name_the_one_of_the_project() -> None:
    for document in DOCUMENTS:
        for link in links(document.read_text("utf-8")):
            assert "github.com" not in link or "idempotency" not in link or link.startswith(REPOSITORY), link


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text(
        "# The `page`, a test\n\n## Twice\n\n## Twice\n\n"
        "[a](#the-page-a-test) [b](#twice-1) [c](page.md#twice) [d](https://example.org/x) `[no](link)`\n"
        f"[e](#none) [f](gone.md) [g]({REPOSITORY}/blob/main/gone.md) ![h](gone.svg)\n"
        f"[i]({REPOSITORY}/blob/main/pyproject.toml)\n\n```\n# no heading\n[no](link)\n```\n"
    )
    assert [problem.partition(":")[0] for problem in problems(document) if "blob" not in problem] == [
        "#none",
        "gone.md",
        "gone.svg",
    ]
    assert [problem for problem in problems(document) if "blob" in problem] == [
        f"{REPOSITORY}/blob/main/gone.md: there is no such file"
    ]


# What docs/architecture.md names.

ARCHITECTURE = ROOT / "docs/architecture.md"
NAMED = sorted(set(re.findall(r"`([^`\n]+)`", ARCHITECTURE.read_text("utf-8"))))


@pytest.mark.parametrize("path", [name for name in NAMED if re.fullmatch(r"[\w./]+/[\w.]+\.(?:py|lua)", name)])
def test_every_file_that_the_architecture_names_is_there(path: str) -> None:
    assert (PACKAGE / path).is_file()


@pytest.mark.parametrize("name", [name for name in NAMED if re.fullmatch(r"_?[A-Z]\w+\.\w+", name)])
def test_every_method_that_the_architecture_names_is_there(name: str) -> None:
    owner, _, method = name.partition(".")
    for source in PACKAGE.rglob("*.py"):
        _, found, body = source.read_text("utf-8").partition(f"\nclass {owner}")
        if found and re.search(rf"\bdef {method}\(", body):
            return
    pytest.fail(f"no class {owner} with a method {method}")
