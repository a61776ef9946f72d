"""A student on its way to the Hub: one commit with all of it, or none."""

from __future__ import annotations

from adastate.hub.hub_client import hub_errors, need_client, need_token
from adastate.hub.publication import Publication


def push(found: Publication, repository: str, public: bool = False, revision: str | None = None) -> str:
    """Makes the repository where there is none, and adds the files to it in one commit; returns the commit's address.

    Files of the repository that `found` has not stay as they are.

    Args:
        repository: "owner/name".
        public: of one that is made; else only its owner sees it.
        revision: branch; None: main.

    Raises:
        HubError: no token, no right to write, no answer: in one sentence.
    """
    client = need_client()
    api = client.HfApi(token=need_token(repository), library_name="adastate")
    with hub_errors(repository, revision, "nothing was published; give the same command again"):
        api.create_repo(repository, private=not public, exist_ok=True)
        operations = [
            client.CommitOperationAdd(
                path_in_repo=name, path_or_fileobj=content if isinstance(content, bytes) else str(content)
            )
            for name, content in found.files.items()
        ]
        done = api.create_commit(repository, operations, commit_message="A student, with its card", revision=revision)
    return str(done.commit_url)
