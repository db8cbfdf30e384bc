"""The ``alloy`` command, for those who have the extra ``cli``."""
