"""Licences and opt-outs: may this text be learnt from.

`normalise` turns what people write ("Apache License, Version 2.0", "CC BY-SA 4.0", "GPLv3+") into the name that SPDX
gives it; groups say what the licence asks for.

| group          | asks                                                   | examples                       |
|----------------|--------------------------------------------------------|--------------------------------|
| public_domain  | nothing                                                | CC0-1.0, Unlicense             |
| permissive     | a notice                                               | MIT, Apache-2.0, CC-BY-4.0     |
| weak_copyleft  | changes to the same files stay free                    | LGPL-3.0-only, MPL-2.0         |
| copyleft       | works made of it stay free                             | GPL-3.0-only, CC-BY-SA-4.0     |
| noncommercial  | no commerce                                            | CC-BY-NC-4.0                   |
| noderivatives  | no changed copies                                      | CC-BY-ND-4.0                   |
| proprietary    | everything reserved                                    | "All rights reserved"          |
| unknown        | nothing can be said                                    | ""                             |

The filter is a list of what is allowed and of what is denied, each a group or a name; denied wins. What the law asks of
training is for lawyers; the filter makes the decision explicit and the report shows what it dropped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from danlu.core.errors import shown, suggest

GROUPS: Mapping[str, frozenset[str]] = {
    "public_domain": frozenset(["CC0-1.0", "Unlicense", "PDDL-1.0", "LicenseRef-public-domain", "WTFPL", "0BSD"]),
    "permissive": frozenset(
        re.findall(
        r"\S+",
        "MIT MIT-0 Apache-2.0 Apache-1.1 BSD-2-Clause BSD-3-Clause BSD-4-Clause ISC Zlib PSF-2.0 Python-2.0 "
        "BSL-1.0 CC-BY-2.0 CC-BY-2.5 CC-BY-3.0 CC-BY-4.0 Artistic-2.0 PostgreSQL X11 NCSA ODC-By-1.0 "
        "MulanPSL-2.0 MulanPSL-1.0 Unicode-3.0 Unicode-DFS-2016 HPND OFL-1.1 CDLA-Permissive-2.0 "
        "BlueOak-1.0.0 UPL-1.0 OLDAP-2.8 curl",
    )
    ),
    "weak_copyleft": frozenset(
        re.findall(
        r"\S+",
        "LGPL-2.0-only LGPL-2.0-or-later LGPL-2.1-only LGPL-2.1-or-later LGPL-3.0-only LGPL-3.0-or-later "
        "MPL-1.1 MPL-2.0 EPL-1.0 EPL-2.0 CDDL-1.0 CDDL-1.1 MS-RL Artistic-1.0",
    )
    ),
    "copyleft": frozenset(
        re.findall(
        r"\S+",
        "GPL-1.0-only GPL-1.0-or-later GPL-2.0-only GPL-2.0-or-later GPL-3.0-only GPL-3.0-or-later "
        "AGPL-3.0-only AGPL-3.0-or-later CC-BY-SA-2.0 CC-BY-SA-2.5 CC-BY-SA-3.0 CC-BY-SA-4.0 EUPL-1.2 OSL-3.0 "
        "ODbL-1.0 GFDL-1.2-only GFDL-1.2-or-later GFDL-1.3-only GFDL-1.3-or-later MulanPubL-2.0",
    )
    ),
    "proprietary": frozenset(("LicenseRef-proprietary",)),
}  # fmt: skip
_ALL_GROUPS = (*GROUPS, "noncommercial", "noderivatives", "unknown")
_GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}
_BY_LOWER = {name.lower(): name for name in _GROUP_OF}

_CREATIVE = re.compile(
    r"(?:cc|creative commons|creativecommons\.org/licenses?)[\s/:_-]*(?P<by>by|attribution)?"
    r"(?P<rest>(?:[\s/_,-]*(?:nc|nd|sa|non-?commercial|no-?deriv\w*|share-?alike))*)[\s/_,-]*(?P<version>[1-4]\.[05])?",
    re.IGNORECASE,
)
_GNU = re.compile(
    r"agpl|lgpl|gpl|gfdl|affero|free documentation|gnu (?:general|lesser|library)|general public licen[cs]e",
    re.IGNORECASE,
)
_GNU_VERSION = re.compile(r"\d(?:\.\d)?")
_GNU_LATER = re.compile(r"\d\s?\+|or[ -](?:any[ -])?(?:later|newer)|以后|以上|或更新", re.IGNORECASE)
# Tried in order on the lower-cased name; the first that is found gives it.
_NAMES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (name, re.compile(pattern))
    for name, pattern in (
        ("CC0-1.0", r"\bcc-?0\b|cc zero|publicdomain/zero"),
        ("LicenseRef-public-domain", r"public[ -]?domain|publicdomain/mark|公有领域|公共领域"),
        ("Unlicense", r"\bunlicense\b"),
        ("Apache-2.0", r"apache.{0,25}2(?:\.0)?\b|apache licen[cs]e$|^apache$|\basl ?2"),
        ("MIT-0", r"mit[ -]no[ -]attribution|mit-0"),
        ("MIT", r"\bmit\b|\bexpat\b|麻省理工"),
        ("BSD-2-Clause", r"bsd[- ]?2|simplified bsd|freebsd|2-clause"),
        ("BSD-3-Clause", r"bsd[- ]?3|new bsd|modified bsd|revised bsd|3-clause|\bbsd\b"),
        ("MPL-2.0", r"(?:mpl|mozilla).{0,25}2|^mpl$"),
        ("PSF-2.0", r"\bpsf|python software foundation|python licen[cs]e"),
        ("ISC", r"\bisc\b"),
        ("Zlib", r"\bzlib\b"),
        ("BSL-1.0", r"boost"),
        ("EPL-2.0", r"(?:epl|eclipse).{0,20}2"),
        ("MulanPSL-2.0", r"mulan.{0,10}psl|木兰宽松"),
        ("OFL-1.1", r"\bofl\b|open font"),
        ("ODbL-1.0", r"\bodbl\b|open database"),
        (
            "LicenseRef-proprietary",
            r"all rights reserved|proprietary|commercial licen[cs]e|版权所有|保留所有权利|专有|未经.{0,6}(?:许可|授权)",
        ),
    )
)


def normalise(name: str) -> str:
    """The SPDX name of one licence, or "" when it is not known.

    >>> normalise("GPLv3+"), normalise("CC BY-NC 4.0"), normalise("Apache License, Version 2.0")
    ('GPL-3.0-or-later', 'CC-BY-NC-4.0', 'Apache-2.0')
    """
    name = " ".join(name.split())[:300].strip("()")
    known = _BY_LOWER.get(name.lower())
    if known or not name:
        return known or ""
    lowered = name.lower()
    if _NAMES[0][1].search(lowered):
        return "CC0-1.0"
    creative = _CREATIVE.search(name)
    if creative and creative["by"]:
        return _creative_name(creative)
    if _GNU.search(name):
        return _gnu_name(lowered)
    return next((spdx for spdx, pattern in _NAMES if pattern.search(lowered)), "")


def _creative_name(match: re.Match[str]) -> str:
    rest = match["rest"].lower().replace("-", "")
    parts = ["CC", "BY"]
    parts += ["NC"] if "nc" in rest or "noncommercial" in rest else []
    parts += ["ND"] if "nd" in rest or "noderiv" in rest else []
    parts += ["SA"] if "sa" in rest or "sharealike" in rest else []
    return "-".join([*parts, match["version"] or "4.0"])


def _gnu_name(lowered: str) -> str:
    if "gfdl" in lowered or "documentation" in lowered:
        family, default = "GFDL", "1.3"
    elif "agpl" in lowered or "affero" in lowered:
        family, default = "AGPL", "3.0"
    elif "lgpl" in lowered or "lesser" in lowered or "library" in lowered:
        family, default = "LGPL", "2.1"
    else:
        family, default = "GPL", "1.0"
    found = _GNU_VERSION.search(lowered)
    if found is None:  # the licence itself says: no version given means any
        return f"{family}-{default}-or-later"
    version = found.group() if "." in found.group() else f"{found.group()}.0"
    return f"{family}-{version}-{'or-later' if _GNU_LATER.search(lowered) else 'only'}"


def group_of(spdx: str) -> str:
    """The group of an SPDX name; "unknown" for anything else."""
    if "-NC" in spdx:
        return "noncommercial"
    if "-ND" in spdx:
        return "noderivatives"
    if spdx.startswith("CC-BY-SA"):
        return "copyleft"
    if spdx.startswith("CC-BY"):
        return "permissive"
    return _GROUP_OF.get(spdx, "unknown")


class LicenceConfig(BaseModel):
    """Groups or SPDX names. Empty `allow` allows everything that is not denied."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    honour_opt_out: bool = True

    @field_validator("allow", "deny")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in _ALL_GROUPS and normalise(name) != name:
                hint = f'did you mean "{spdx}"?' if (spdx := normalise(name)) else suggest(name, _ALL_GROUPS)
                raise ValueError(f"there is no licence or group {shown(name)}; {hint}")
        return value


def judge_licence(licence: str, config: LicenceConfig) -> tuple[str, str]:
    """("", "") to keep, else ("licence:GPL-3.0-only", detail).

    An expression is taken apart: of "A OR B" one allowed is enough, of "A AND B" both must be; exceptions (WITH) are
    ignored, they only ever permit more.
    """
    if not config.allow and not config.deny:
        return "", ""
    failures: list[tuple[str, str]] = []
    for choice in re.split(r"\s+OR\s+", licence.strip("()")):
        failure = next(
            (f for f in (_judge_one(part, config) for part in re.split(r"\s+AND\s+", choice)) if f[0]), ("", "")
        )
        if not failure[0]:
            return "", ""
        failures.append(failure)
    return failures[0]


def _judge_one(licence: str, config: LicenceConfig) -> tuple[str, str]:
    spdx = normalise(re.split(r"\s+WITH\s+", licence)[0])
    group = group_of(spdx)
    names = {spdx, group} - {""}
    reason = f"licence:{spdx or 'unknown'}"
    if names & set(config.deny):
        return reason, f"{group} is denied"
    if config.allow and not names & set(config.allow):
        return reason, f"{group} is not allowed" + (f" ({licence[:60]})" if not spdx and licence else "")
    return "", ""


_OPT_OUT = re.compile(r"\b(?:noai|noimageai|noml|none)\b", re.IGNORECASE)
_ROBOTS_KEYS = ("robots", "x-robots-tag", "x_robots_tag", "googlebot")
_RESERVATION_KEYS = ("tdm-reservation", "tdm_reservation")


def judge_robots(meta: Mapping[str, Any]) -> tuple[str, str]:
    """("robots", detail) where the page or its site opted out of training: noai in the robots tag or header, a
    reservation by the TDM protocol, or a crawler's note that robots.txt forbids the page."""
    for key, value in meta.items():
        name = key.lower()
        if name in _ROBOTS_KEYS and _OPT_OUT.search(str(value)):
            return "robots", f"{name}: {str(value)[:60]}"
        if name in _RESERVATION_KEYS and str(value).strip() in ("1", "true", "True"):
            return "robots", f"{name}: 1"
        if name == "robots_allowed" and value in (False, "false", "False", 0):
            return "robots", "robots.txt"
    return "", ""
