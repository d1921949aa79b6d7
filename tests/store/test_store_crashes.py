"""Processes die at every operation on the file system; a fresh one looks at what is left."""

from __future__ import annotations

import shutil
import signal

import pytest
from store_workload import call, facts, promote, publish

KILLED = {"killed": signal.SIGKILL}
AT_ONCE = 8


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A store with two versions that nothing happened to."""
    root = tmp_path_factory.mktemp("undisturbed") / "store"
    publish(root)
    publish(root, "second", "2026-03-02", 2)
    return facts(root)


@pytest.fixture(scope="module")
def one_version(tmp_path_factory):
    """A store with one version, in production."""
    root = tmp_path_factory.mktemp("one") / "store"
    publish(root)
    promote(root, 1)
    return root


def killed_everywhere(processes, action, template, tmp_path, *arguments):
    """Copies of `template`, one for each operation of `action`, which was killed just before it.

    They come some at a time, since most of a process's time is spent waiting for the disk.
    """
    whole = tmp_path / "whole" / "store"
    copy(template, whole)
    n_operations = processes.run(action, whole, *arguments)["operations"]
    for start in range(1, n_operations + 1, AT_ONCE):
        kills = range(start, min(start + AT_ONCE, n_operations + 1))
        roots = [tmp_path / str(at) / "store" for at in kills]
        for root in roots:
            copy(template, root)
        deaths = processes.all(
            *(call(action, root, *arguments, at=at) for root, at in zip(roots, kills, strict=True))
        )
        assert deaths == [KILLED] * len(roots)
        yield roots
        for root in roots:
            shutil.rmtree(root.parent)


def copy(template, root):
    root.parent.mkdir()
    if template is not None:
        shutil.copytree(template, root)


def test_a_first_publish_killed_anywhere_leaves_no_part_and_its_retry_makes_the_same_files(
    processes, undisturbed, tmp_path
):
    n_kills = 0
    for roots in killed_everywhere(processes, "publish", None, tmp_path):
        for found in processes.each("facts", roots):
            assert found["problems"] == []
            assert found["keys"] in ([], ["first"])
        assert processes.each("publish", roots) == [1] * len(roots)
        for found in processes.each("facts", roots):
            assert (found["keys"], found["problems"]) == (["first"], [])
            assert found["files"] == undisturbed["files"][:1]
        n_kills += len(roots)
    assert n_kills > 50


def test_a_later_publish_killed_anywhere_leaves_production_alone_and_its_retry_one_version(
    processes, undisturbed, one_version, tmp_path
):
    later = ("second", "2026-03-02", 2)
    n_kills = 0
    for roots in killed_everywhere(processes, "publish", one_version, tmp_path, *later):
        for found in processes.each("facts", roots):
            assert found["problems"] == []
            assert found["keys"] in (["first"], ["first", "second"])
            assert found["aliases"] == {"production": 1}
        assert processes.each("publish", roots, *later) == [2] * len(roots)
        for found in processes.each("facts", roots):
            assert (found["keys"], found["problems"]) == (["first", "second"], [])
            assert found["files"] == undisturbed["files"]
        n_kills += len(roots)
    assert n_kills > 50


def test_a_promotion_killed_anywhere_moves_the_alias_or_not_and_its_retry_moves_it_once(
    processes, one_version, tmp_path
):
    template = tmp_path / "template"
    shutil.copytree(one_version, template)
    publish(template, "second", "2026-03-02", 2)
    n_kills = 0
    for roots in killed_everywhere(processes, "promote", template, tmp_path, 2):
        for found in processes.each("facts", roots):
            assert found["problems"] == []
            assert found["aliases"]["production"] in (1, 2)
        assert processes.each("promote", roots, 2) == [[2, 2]] * len(roots)
        for found in processes.each("facts", roots):
            assert (found["aliases"], found["problems"]) == ({"production": 2}, [])
        n_kills += len(roots)
    assert n_kills > 15


def test_a_publisher_stalled_anywhere_in_its_commit_makes_no_second_version_when_it_wakes(
    processes, one_version, tmp_path
):
    whole = tmp_path / "whole" / "store"
    copy(one_version, whole)
    n_operations = processes.run("publish", whole, "second")["operations"]
    for at in range(n_operations - 12, n_operations + 1):  # writing the intent and the slot
        root = tmp_path / str(at) / "store"
        copy(one_version, root)
        zombie, other, retry = processes.stall(
            call("publish", root, "second", at=at),
            call("publish", root, "other"),
            call("publish", root, "second"),
        )
        assert zombie["result"] == retry["result"]
        found = processes.run("facts", root)["result"]
        assert sorted(found["keys"]) == ["first", "other", "second"]
        assert found["keys"][other["result"] - 1] == "other"
        assert found["problems"] == []
        shutil.rmtree(root.parent)


def test_processes_that_publish_the_same_keys_agree_on_one_version_each_in_one_chain(
    processes, tmp_path
):
    root = tmp_path / "store"
    keys = [(f"key-{n}", 1) for n in range(5)]
    orders = [(keys[n:] + keys[:n]) * 2 for n in range(4)]
    answers = processes.all(*(call("publish_all", root, order) for order in orders))
    versions = [
        {key: version for (key, _), version in zip(order, answer["result"], strict=True)}
        for order, answer in zip(orders, answers, strict=True)
    ]
    assert versions[0] == versions[1] == versions[2] == versions[3]
    assert sorted(versions[0].values()) == [1, 2, 3, 4, 5]
    found = processes.run("facts", root)["result"]
    assert found["keys"] == sorted(versions[0], key=versions[0].__getitem__)
    assert found["problems"] == []  # the parents form one chain


def test_processes_that_move_one_alias_leave_one_log_without_a_gap(processes, tmp_path):
    root = tmp_path / "store"
    processes.run("publish_all", root, [(f"key-{n}", 1) for n in range(3)])
    answers = processes.all(*[call("promote_all", root, [1, 2, 3, 1, 2, 3])] * 4)
    last = max(move for answer in answers for move, _ in answer["result"])
    found = processes.run("facts", root)["result"]
    assert found["problems"] == []
    assert len(list((root / "refs" / "production").glob("*.json"))) == last
