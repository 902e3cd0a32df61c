"""Presets: one small TOML file per experiment."""
