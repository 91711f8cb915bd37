"""What is secret is compared in constant time, and nowhere by ``==``, which stops at the first letter that differs."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVED = ("shared", "web", "worker")
SECRET = re.compile(r"secret|token|signature|passw|hmac|mac$|_hash|authorization|credential|link_code", re.IGNORECASE)
# Comparisons of what is no secret, or of one with itself.
HARMLESS = {
    "shared/signing.py: encoded == secret",  # whether a secret that somebody gives us is written in canonical base64
    "shared/verification.py: signature['alg'] != 'EdDSA'",
}
COMPARED = {"shared/accounts.py": 2, "web/api/links.py": 1}


def names(node: ast.AST) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.Name):
            yield each.id
        elif isinstance(each, ast.Attribute):
            yield each.attr


def compared(source: str) -> list[str]:
    """Return the comparisons for equality of anything that is called like a secret."""
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Compare)
        and any(isinstance(operator, (ast.Eq, ast.NotEq)) for operator in node.ops)
        and any(SECRET.search(name) for name in names(node))
    ]


def sources() -> Iterator[tuple[str, str]]:
    for package in SERVED:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


def test_no_secret_is_compared_by_its_letters() -> None:
    found = {f"{path}: {each}" for path, source in sources() for each in compared(source)}
    assert found == HARMLESS


def test_keys_and_links_are_compared_in_constant_time() -> None:
    counted = {path: len(re.findall(r"\bhmac\.compare_digest\(", source)) for path, source in sources()}
    assert {path: number for path, number in counted.items() if number} == COMPARED


def test_a_comparison_by_letters_would_be_found() -> None:
    for planted in ("given == row.secret_hash", "api_token != kept", "f(signature) == g(x)", "a.link_code(b) == c"):
        assert compared(f"if {planted}: pass") == [planted]
