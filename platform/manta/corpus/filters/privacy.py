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


class _Rule(NamedTuple):
    """One kind of private data.

    Attributes:
        kind: name of the kind, as in the config.
        placeholder: text that stands in its place.
        hints: texts of which a document with such data has at least one; none if any may have it.
        pattern: regular expression of candidates; its group "it" is what is replaced.
        is_right: whether a candidate is such data.
    """

    kind: PrivateKind
    placeholder: str
    hints: tuple[str, ...]
    pattern: re.Pattern[str]
    is_right: Callable[[Match], bool]


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


def _is_random(match: Match) -> bool:
    value = match["it"]
    if match["named"] is None:
        return True
    bits = -sum(n / len(value) * math.log2(n / len(value)) for n in Counter(value).values())
    return bits >= RANDOM_BITS and any(map(str.isdigit, value)) and not value.isdigit()


# Keys by the forms that their issuers document; then values beside a name such as `api_key=`.
_ISSUED = "|".join(
    (
        r"(?:AKIA|ASIA)[A-Z0-9]{16}",  # Amazon
        r"gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{50,255}",
        r"glpat-[A-Za-z0-9_-]{20,}",  # GitLab
        r"xox[abeoprs]-[A-Za-z0-9-]{10,}",  # Slack
        r"AIza[A-Za-z0-9_-]{35}",  # Google
        r"sk-(?:ant-|proj-|svcacct-)?[A-Za-z0-9_-]{20,}",  # OpenAI, Anthropic
        r"hf_[A-Za-z0-9]{30,}",  # Hugging Face
        r"(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,}",  # Stripe
        r"SG\.[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{30,}",  # SendGrid
        r"npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{50,}",
        r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",  # JSON Web Token
    )
)
_BLOCK = (
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[^-]{16,8192}-----END [A-Z ]{0,30}PRIVATE KEY-----"
)
_NAMED = (
    r"(?P<named>api[_-]?key|secret[_-]?key|access[_-]?key|client[_-]?secret|auth[_-]?token"
    r"|access[_-]?token|password|passwd|secret|token)[\"']?\s{0,3}(?::|=>?)\s{0,3}[\"']?"
)
_KEYS = re.compile(
    rf"(?:{_NAMED}(?=[A-Za-z0-9+/_.=-]{{16}})|(?<![A-Za-z0-9_-])(?={_ISSUED}|{_BLOCK}))"
    rf"(?P<it>{_BLOCK}|{_ISSUED}|(?(named)[A-Za-z0-9+/_.=-]{{16,200}}|(?!)))",
    re.IGNORECASE,
)
_KEY_HINTS = (
    *("key", "secret", "token", "passw", "AKIA", "ASIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_"),
    *("github_pat_", "glpat-", "xox", "AIza", "sk-", "hf_", "_live_", "_test_", "SG.", "npm_"),
    *("pypi-", "eyJ", "KEY", "Key", "SECRET", "Secret", "TOKEN", "Token", "PASSW", "Passw"),
)
RULES = (
    _Rule("keys", "<KEY>", _KEY_HINTS, _KEYS, _is_random),
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
        (".", ":"),
        re.compile(
            r"(?<![\w.:])(?P<it>(?:\d{1,3}\.){3}\d{1,3}"
            r"|(?:[0-9A-Fa-f]{1,4}:{1,2}){2,7}[0-9A-Fa-f]{0,4})(?![\w:]|\.\d)"
        ),
        _is_public,
    ),
    _Rule(
        "cards",
        "<CARD>",
        (),
        re.compile(r"(?<![\w.+-])(?P<it>\d(?:[ -]?\d){12,18})(?![\w-]|\.\d)"),
        _is_card,
    ),
    _Rule(
        "phones",
        "<PHONE>",
        (),
        # With a country's code; or North American, with a separator between its three groups.
        re.compile(
            r"(?<![\w.+/=-])(?P<it>\+\d{1,3}(?:[ .-]?\(?\d{1,5}\)?){2,6}"
            r"|(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[ .-]\d{4})(?![\w/]|[.-]\d)"
        ),
        _is_phone,
    ),
)
_DIGITS = re.compile(r"\d{3}")


class Privacy:
    """Replaces private data by placeholders, of the kinds that the config names."""

    name = "privacy"

    def __init__(self, section: PrivacySection):
        self._rules = [rule for rule in RULES if rule.kind in section.find]

    def judge(self, text: str) -> Verdict:
        """The text with placeholders; found: how many of each kind."""
        found = dict[str, int]()
        has_digits = _DIGITS.search(text) is not None
        for rule in self._rules:
            if rule.hints:
                if not any(hint in text for hint in rule.hints):
                    continue
            elif not has_digits:
                continue
            text, count = _replaced(rule, text)
            if count:
                found[rule.kind] = count
        return Keep(text, found)


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
