"""Experiments: a TOML file in; a run folder with tables, pictures and one report out. The top layer: nothing below imports it."""
