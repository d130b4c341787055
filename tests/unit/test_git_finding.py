"""Task folders below a part of a repository: what stands above that part decides, too, and is looked at again when it changes."""

from __future__ import annotations

from pathlib import Path

from tests.support.raw_repository import RawRepository

from dicode.git.commits import Commit, find
from dicode.git.packs import Database

TASK = {"task.yaml": "name: T\ntrigger: {manual: true}\n"}


def test_ignore_files_above_the_part_that_is_read_count_also_when_only_they_changed(tmp_path: Path) -> None:
    repository = RawRepository(tmp_path / "mirror")

    def commit(ignore: str) -> Commit:
        tasks = repository.tree([("40000", name, repository.files(TASK)) for name in ("a", "b")])
        above = [("100644", ".gitignore", repository.blob(ignore))] if ignore else []
        return Commit(Database(str(repository.folder)), repository.tree([*above, ("40000", "jobs", tasks)]))

    plain, ignoring = commit(""), commit("jobs/b/\n")
    assert find(plain, "jobs").tasks == ["jobs/a", "jobs/b"] and find(ignoring, "jobs").tasks == ["jobs/a"]
    later = find(ignoring, "jobs", plain)
    assert (later.gone, later.tasks) == (["jobs"], ["jobs/a"]), "nothing that was found before holds any more"
    back = find(plain, "jobs", ignoring)
    assert (back.gone, back.tasks) == (["jobs"], ["jobs/a", "jobs/b"])
    assert find(plain, "jobs", commit("")) == find(plain, "jobs", plain) == ([], [], [])
