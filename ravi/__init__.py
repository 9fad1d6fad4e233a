"""ravi: a filesystem-native, git-backed operating layer for personal agents."""

__version__ = "0.1.0"
