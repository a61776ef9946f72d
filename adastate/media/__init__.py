"""Video files, and strips of frames."""
