"""Private data becomes placeholders: e-mail addresses, phone and card numbers, IPs, keys.

What was found is counted and never kept, printed or logged. Rules prefer to leave a number that
only looks private: a card number needs Luhn's check digit and an issuer's prefix, an IP address
must be a public one, a key needs the form that its issuer gives it or a name beside it.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from manta.config.filters import PrivacySection, PrivateKind
from manta.corpus.filters.filter_verdict import Keep, Verdict

Match = re.Match[str]
# Shannon entropy, in bits a character, from which on a value beside a name such as `api_key` is
# taken for random: words and placeholders ("your-key-here") have less.
RANDOM_BITS = 3.0
# Some digits near each other, as every number that is private has.
DIGITS = re.compile(r"\d(?:\d|[ .()-]{1,2}\d)")


class _Rule(NamedTuple):
    """One kind of private data.

    Attributes:
        kind: name of the kind, as in the config.
        placeholder: text that stands in its place.
        hint: texts of which a document with such data has at least one; or a pattern that is found
            in each of these.
        pattern: regular expression of candidates; its group "it" is what is replaced.
        is_right: whether a candidate is such data.
        in_a_line: whether such data is always within a line.
    """

    kind: PrivateKind
    placeholder: str
    hint: tuple[str, ...] | re.Pattern[str]
    pattern: re.Pattern[str]
    is_right: Callable[[Match], bool]
    in_a_line: bool = True


def _any(match: Match) -> bool:
    return True


def luhn(digits: str) -> bool:
    """Whether a number's last digit is the check digit of ISO/IEC 7812-1 (Luhn)."""
    doubled = [int(digit) * 2 for digit in digits[-2::-2]]
    return (sum(map(int, digits[-1::-2])) + sum(two - 9 * (two > 9) for two in doubled)) % 10 == 0


def _is_card(match: Match) -> bool:
    digits = re.sub(r"\D", "", match[0])
    issuers = r"4|5[1-5]|2[2-7]|3[47]|3[0689]|35|6(?:011|4[4-9]|5)|62"
    return 13 <= len(digits) <= 19 and re.match(issuers, digits) is not None and luhn(digits)


def _is_phone(match: Match) -> bool:
    digits = re.sub(r"\D", "", match[0])
    return 8 <= len(digits) <= 15 and len(set(digits)) > 2


def _is_public(match: Match) -> bool:
    try:
        return ipaddress.ip_address(match["it"]).is_global
    except ValueError:
        return False


def _is_secret(match: Match) -> bool:
    """Whether what stands beside a name such as `api_key` looks random."""
    if match["name"].lower() == "key" and not _OF_KEYS.search(match.string, 0, match.start()):
        return False
    value = match["it"]
    bits = -sum(n / len(value) * math.log2(n / len(value)) for n in Counter(value).values())
    return bits >= RANDOM_BITS and any(map(str.isdigit, value)) and not value.isdigit()


# What stands before `key` in the name of a secret.
_OF_KEYS = re.compile(r"(?:api|access|secret|private|account|auth|client)[ _-]?\Z", re.IGNORECASE)
# Keys by the forms that their issuers document: the text that each has, and its pattern.
_ISSUED = {
    "AKIA": r"AKIA[A-Z0-9]{16}(?![A-Za-z0-9])",  # Amazon
    "ASIA": r"ASIA[A-Z0-9]{16}(?![A-Za-z0-9])",
    "gh": r"gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{50,255}",
    "glpat-": r"glpat-[A-Za-z0-9_-]{20,}",  # GitLab
    "xox": r"xox[abeoprs]-[A-Za-z0-9-]{10,}",  # Slack
    "AIza": r"AIza[A-Za-z0-9_-]{35}",  # Google
    # OpenAI, Anthropic
    "sk-": r"sk-(?=[A-Za-z_-]{0,80}[0-9])(?=[a-z0-9_-]{0,80}[A-Z])[A-Za-z0-9_-]{20,}",
    "hf_": r"hf_[A-Za-z0-9]{30,}",  # Hugging Face
    "_live_": r"[spr]k_live_[A-Za-z0-9]{16,}",  # Stripe
    "_test_": r"[spr]k_test_[A-Za-z0-9]{16,}",
    "SG.": r"SG\.[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{30,}",  # SendGrid
    "npm_": r"npm_[A-Za-z0-9]{36}",
    "pypi-": r"pypi-[A-Za-z0-9_-]{50,}",
    "eyJ": r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",  # JSON Web Token
    "-----BEGIN": r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[^-]{16,8192}-----END "
    r"[A-Z ]{0,30}PRIVATE KEY-----",
}
_NAMES = ("key", "secret", "token", "password", "passwd")
_ALL_NAMES = tuple(written for name in _NAMES for written in (name, name.title(), name.upper()))
RULES = (
    _Rule(
        "keys",
        "<KEY>",
        tuple(_ISSUED),
        re.compile(rf"(?<![A-Za-z0-9_-])(?P<it>{'|'.join(_ISSUED.values())})"),
        _any,
        in_a_line=False,
    ),
    _Rule(
        "keys",
        "<KEY>",
        _ALL_NAMES,
        re.compile(
            rf"(?P<name>{'|'.join(_ALL_NAMES)})[\"']?\s{{0,3}}(?::|=>?)\s{{0,3}}[\"']?"
            r"(?P<it>[A-Za-z0-9+/_.=-]{16,200})"
        ),
        _is_secret,
        in_a_line=False,
    ),
    _Rule(
        "emails",
        "<EMAIL>",
        ("@",),
        re.compile(
            r"(?<![\w.+-])(?P<it>[\w.+-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)"
            r"{1,8}[A-Za-z]{2,24})(?![\w-])"
        ),
        _any,
    ),
    _Rule(
        "addresses",
        "<IP_ADDRESS>",
        DIGITS,
        re.compile(r"(?<![\w.:])(?P<it>\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3})(?![\w:]|\.\d)"),
        _is_public,
    ),
    _Rule(
        "addresses",
        "<IP_ADDRESS>",
        re.compile(r":[0-9A-Fa-f]{0,4}:"),
        re.compile(r"(?<![\w.:])(?P<it>(?:[0-9A-Fa-f]{1,4}:{1,2}){2,7}[0-9A-Fa-f]{0,4})(?![\w:])"),
        _is_public,
    ),
    _Rule(
        "cards",
        "<CARD>",
        DIGITS,
        re.compile(r"(?<![\w.+-])(?P<it>\d(?:[ -]?\d){12,18})(?![\w-]|\.\d)"),
        _is_card,
    ),
    _Rule(
        "phones",
        "<PHONE>",
        DIGITS,
        # With a country's code; or North American, with a separator between its three groups.
        re.compile(
            r"(?<![\w.+/=-])(?P<it>\+\d{1,3}(?:[ .-]?\(?\d{1,5}\)?){2,6}"
            r"|(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[ .-]\d{4})(?![\w/]|[.-]\d)"
        ),
        _is_phone,
    ),
)


class Privacy:
    """Replaces private data by placeholders, of the kinds that the config names."""

    name = "privacy"

    def __init__(self, section: PrivacySection):
        self._rules = [rule for rule in RULES if rule.kind in section.find]

    def judge(self, text: str) -> Verdict:
        """The text with placeholders; found: how many of each kind."""
        found = Counter[str]()
        # Placeholders bring no digit, so what has none before a rule has none after it.
        has_digits = DIGITS.search(text) is not None
        for rule in self._rules:
            if has_digits if rule.hint is DIGITS else _may_have(rule, text):
                text, count = _in_lines(rule, text) if rule.in_a_line else _replaced(rule, text)
                if count:
                    found[rule.kind] += count
        return Keep(text, dict(found))


def _may_have(rule: _Rule, text: str) -> bool:
    if isinstance(rule.hint, tuple):
        return any(hint in text for hint in rule.hint)
    return rule.hint.search(text) is not None


def _in_lines(rule: _Rule, text: str) -> tuple[str, int]:
    """The same as `_replaced`, which reads only the lines that may have such data."""
    lines, total = text.split("\n"), 0
    for number, line in enumerate(lines):
        if _may_have(rule, line):
            lines[number], count = _replaced(rule, line)
            total += count
    return ("\n".join(lines) if total else text), total


def _replaced(rule: _Rule, text: str) -> tuple[str, int]:
    count = 0

    def placeholder(match: Match) -> str:
        nonlocal count
        if not rule.is_right(match):
            return match[0]
        count += 1
        start, end = match.span("it")
        begin = match.start()
        return match[0][: start - begin] + rule.placeholder + match[0][end - begin :]

    return rule.pattern.sub(placeholder, text), count
