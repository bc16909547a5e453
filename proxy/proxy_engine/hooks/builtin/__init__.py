"""Hooks that come with proxy-engine. docs/hooks.md says what their options are."""
