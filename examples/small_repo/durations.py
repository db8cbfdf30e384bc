"""Durations as people write them: hours, minutes and seconds, such as 1h30m."""

import re

UNITS = {"h": 3600, "m": 60, "s": 1}


def seconds(text: str) -> int:
    """How many seconds a duration has; a ValueError if it is none."""
    found = re.findall(r"(\d)([hms])", text)
    return sum(int(number) * UNITS[unit] for number, unit in found)
