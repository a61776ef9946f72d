"""Publishes a student on the Hub: one commit with all files, or none."""

from __future__ import annotations

from adastate.hub.hub_client import hub_errors, need_client, need_token
from adastate.hub.publication import Publication


def push(found: Publication, repository: str, public: bool = False, revision: str | None = None) -> str:
    """Creates the repository if it does not exist, and adds the files in one commit; returns the commit's address.

    Files of the repository that are not in `found` are unchanged.

    Args:
        repository: "owner/name".
        public: visibility of a new repository; private by default.
        revision: branch; None: main.

    Raises:
        HubError: no token, no write permission, or no answer, in one sentence.
    """
    client = need_client()
    api = client.HfApi(token=need_token(repository), library_name="adastate")
    with hub_errors(repository, revision, "nothing was published; run the same command again"):
        api.create_repo(repository, private=not public, exist_ok=True)
        operations = [
            client.CommitOperationAdd(
                path_in_repo=name, path_or_fileobj=content if isinstance(content, bytes) else str(content)
            )
            for name, content in found.files.items()
        ]
        done = api.create_commit(repository, operations, commit_message="A student, with its card", revision=revision)
    return str(done.commit_url)
