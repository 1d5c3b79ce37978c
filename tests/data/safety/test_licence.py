from __future__ import annotations

import pytest

from danlu.data.safety.licence import GROUPS, LicenceConfig, group_of, judge_licence, judge_robots, normalise


@pytest.mark.parametrize(
    ("written", "spdx", "group"),
    [
        ("MIT License", "MIT", "permissive"),
        ("apache-2.0", "Apache-2.0", "permissive"),
        ("Apache License, Version 2.0", "Apache-2.0", "permissive"),
        ("BSD 3-Clause \"New\"", "BSD-3-Clause", "permissive"),
        ("GPLv3+", "GPL-3.0-or-later", "copyleft"),
        ("GPL-3.0", "GPL-3.0-only", "copyleft"),
        ("GNU General Public License v2 or later", "GPL-2.0-or-later", "copyleft"),
        ("GNU Lesser General Public License 2.1", "LGPL-2.1-only", "weak_copyleft"),
        ("AGPLv3", "AGPL-3.0-only", "copyleft"),
        ("CC BY-SA 4.0", "CC-BY-SA-4.0", "copyleft"),
        ("https://creativecommons.org/licenses/by-nc-nd/3.0/", "CC-BY-NC-ND-3.0", "noncommercial"),
        ("Creative Commons Attribution 4.0", "CC-BY-4.0", "permissive"),
        ("CC0 1.0", "CC0-1.0", "public_domain"),
        ("版权所有，未经许可不得转载", "LicenseRef-proprietary", "proprietary"),
        ("木兰宽松许可证 第2版", "MulanPSL-2.0", "permissive"),
        ("PSF-2.0", "PSF-2.0", "permissive"),
        ("do what feels right", "", "unknown"),
        ("", "", "unknown"),
    ],
)  # fmt: skip
def test_names_and_groups(written: str, spdx: str, group: str) -> None:
    assert (normalise(written), group_of(normalise(written))) == (spdx, group)


def test_every_spdx_name_is_its_own() -> None:
    for group, names in GROUPS.items():
        for name in names:
            assert normalise(name) == name and group_of(name) == group


@pytest.mark.parametrize(
    ("licence", "config", "reason"),
    [
        ("GPL-3.0", {}, ""),
        ("GPL-3.0", {"deny": ("copyleft",)}, "licence:GPL-3.0-only"),
        ("MIT OR GPL-3.0-only", {"allow": ("permissive",)}, ""),
        ("MIT AND GPL-3.0-only", {"allow": ("permissive",)}, "licence:GPL-3.0-only"),
        ("GPL-2.0-only WITH Classpath-exception-2.0", {"allow": ("GPL-2.0-only",)}, ""),
        ("", {"allow": ("permissive",)}, "licence:unknown"),
        ("", {"allow": ("permissive", "unknown")}, ""),
        ("MIT", {"allow": ("permissive",), "deny": ("MIT",)}, "licence:MIT"),
        ("MIT License", {"deny": ("unknown",)}, ""),
    ],
)
def test_allow_and_deny(licence: str, config: dict[str, tuple[str, ...]], reason: str) -> None:
    assert judge_licence(licence, LicenceConfig(**config))[0] == reason


@pytest.mark.parametrize(
    ("meta", "reason"),
    [
        ({"robots": "noindex, noai"}, "robots"),
        ({"X-Robots-Tag": "NOAI, noimageai"}, "robots"),
        ({"tdm-reservation": 1}, "robots"),
        ({"robots_allowed": False}, "robots"),
        ({"robots": "index, follow", "robots_allowed": True, "tdm-reservation": 0, "title": "noai"}, ""),
        ({}, ""),
    ],
)
def test_opt_outs(meta: dict[str, object], reason: str) -> None:
    assert judge_robots(meta)[0] == reason
