"""Shared by the tests of commands."""

from command_lines import here  # noqa: F401 - a fixture
