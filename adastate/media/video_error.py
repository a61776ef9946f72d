"""What is raised of videos; here, so that it is known without torch."""

from __future__ import annotations


class VideoError(ValueError):
    """A file that is not a video we can read; the sentence names it."""
