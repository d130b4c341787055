"""Which time zone this machine keeps: the default of `trigger.timezone`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from dicode.spec.schedule import check_zone

_LOCALTIME = "/etc/localtime"
_FOLDER = "/zoneinfo/"


def machine_zone(environ: Mapping[str, str]) -> str:
    """A name of the tz database: TZ, else what /etc/localtime points at, else UTC."""
    for key in (environ.get("TZ", "").removeprefix(":"), _linked()):
        if key and check_zone(key) is None:
            return key
    return "UTC"


def _linked() -> str:
    target = os.path.realpath(_LOCALTIME) if Path(_LOCALTIME).is_symlink() else ""
    return target.rpartition(_FOLDER)[2] if _FOLDER in target else ""
