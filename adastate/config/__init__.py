"""YAML files and overrides: composed, checked, and turned into what Lightning reads."""
