"""What is wrong with the files that a stream is given, as far as it shows before torch is imported."""

from __future__ import annotations

from pathlib import Path

from adastate.media.picture_kinds import PICTURES, opened_picture, pictures_in, unlimited

LATENTS = (".safetensors", ".npy", ".pth", ".pt")


def check_pictures(path: Path, prompts: int) -> None:
    """Refuses a file that is no picture, and a folder without one for each prompt.

    Raises:
        ValueError: in one sentence.
    """
    if not path.exists():
        raise ValueError(f"there is no picture {path}")
    files = pictures_in(path) if path.is_dir() else [path]
    if path.is_dir() and not files:
        raise ValueError(
            f"{path} holds no picture: give a file, or a folder of files that end in {', '.join(PICTURES)}"
        )
    if path.is_dir() and len(files) != prompts:
        count = "1 picture" if len(files) == 1 else f"{len(files)} pictures"
        raise ValueError(
            f"{path} holds {count} for {prompts} prompt{'s' * (prompts != 1)}: give one for each, or one file"
        )
    for file in files:
        if file.stat().st_size == 0:
            raise ValueError(f"{file} is empty and no picture: give a PNG or JPEG")
        try:
            with unlimited():
                opened_picture(file).close()
        except (OSError, SyntaxError, ValueError) as error:  # PIL has all three for damaged files
            raise ValueError(f"{file} cannot be read as a picture: save it as a PNG or JPEG") from error


def check_latents(path: Path) -> None:
    """Refuses what is no file of latents, by its name.

    Raises:
        ValueError: in one sentence.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give a file of latents, {', '.join(LATENTS)}")
    if not path.is_file():
        raise ValueError(f"there is no file of latents {path}")
    if path.suffix not in LATENTS:
        raise ValueError(f"{path} is not a file of latents: {', '.join(LATENTS)} are read")
