"""What the Hub's client raises, as one sentence with a remedy."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TOKENS = "https://huggingface.co/settings/tokens"


class HubError(ValueError):
    """What is amiss with the Hub or with what is asked of it, told in one sentence."""


def need_client() -> Any:
    """The package huggingface_hub.

    Raises:
        HubError: it is not installed.
    """
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise HubError(f"the Hub needs {error.name}: pip install -e '.[hub]'") from error
    return huggingface_hub


def need_token(repository: str) -> str:
    """The token that the environment or an earlier login gives.

    Raises:
        HubError: there is none.
    """
    token = need_client().get_token()
    if not token:
        raise HubError(
            f"the Hub requires a token to write to {repository}; create one with write permission at "
            f"{TOKENS}, then `hf auth login`, or set HF_TOKEN"
        )
    return str(token)


@contextmanager
def hub_errors(
    repository: str, revision: str | None = None, broken: str = "run the same command again"
) -> Iterator[None]:
    """Within it whatever the client raises becomes a HubError.

    Args:
        broken: what to do where a transfer broke off.
    """
    client = need_client()
    try:
        yield
    except HubError:
        raise
    except client.errors.HFValidationError as error:
        raise HubError(f"{repository!r} is not the name of a repository: it has the form owner/name") from error
    except client.errors.OfflineModeIsEnabled as error:
        raise HubError("HF_HUB_OFFLINE forbids access to the Hub: unset it, or give a folder") from error
    except client.errors.HfHubHTTPError as error:
        raise HubError(_answered(error, repository, revision, broken)) from error
    except (OSError, RuntimeError) as error:
        if "Consistency check failed" in str(error):
            raise HubError(f"a file of {repository} was not downloaded completely; {broken}") from error
        if _of_xet(error):
            said = " ".join(str(error).split())[:200]
            raise HubError(
                f"the transfer broke off ({said}); {broken}, with HF_HUB_DISABLE_XET=1 by plain HTTP"
            ) from error
        raise
    except Exception as error:
        raised = type(error).__module__.partition(".")[0]
        if raised in ("httpx2", "httpx", "httpcore2", "httpcore") or type(error).__name__ == "XetDownloadError":
            raise HubError(_silent(error, broken)) from error
        raise


def _answered(error: Any, repository: str, revision: str | None, broken: str) -> str:
    errors, code = need_client().errors, error.response.status_code
    host = _host()
    if isinstance(error, errors.GatedRepoError):
        return f"{repository} requires you to accept its terms first, at https://{host}/{repository}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repository} has no revision {revision!r}: give a branch, a tag or a commit of it with --revision"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{host} has no repository {repository}, or it is private and your token may not read it: check the name, "
            "or `hf auth login`"
        )
    if code == 401:
        return f"{host} rejected your token: create a new one at {TOKENS}, then `hf auth login`, or set HF_TOKEN"
    if code == 403:
        return (
            f"your token may not write to {repository}: use one with write permission ({TOKENS}), and an owner "
            "that is you or an organisation of yours"
        )
    if code == 429:
        return f"{host} received too many requests from here: wait some minutes, then {broken}"
    said = " ".join(str(error.server_message or "").split())[:200]
    return f"{host} answered {code}{f' ({said})' if said else ''}; {broken}"


def _of_xet(error: Exception) -> bool:
    """Whether hf_xet, by which large files travel, has raised one of Python's own exceptions; not one of the disk."""
    frames = traceback.extract_tb(error.__traceback__)
    return getattr(error, "errno", None) is None and any("xet" in frame.name for frame in frames)


def _silent(error: Exception, broken: str) -> str:
    if type(error).__name__ in ("ConnectError", "ConnectTimeout", "ProxyError", "UnsupportedProtocol"):
        return f"{_host()} cannot be reached ({' '.join(str(error).split())[:120]}): check the network, or HF_ENDPOINT"
    return f"the transfer broke off; {broken}"


def _host() -> str:
    return str(need_client().constants.ENDPOINT).partition("://")[2] or os.environ.get("HF_ENDPOINT", "")
