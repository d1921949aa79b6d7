"""Processes stall, and race one another; `test_store_kills.py` kills them."""

from __future__ import annotations

import shutil

import pytest
from store_workload import call, promote, publish


@pytest.fixture(scope="module")
def one_version(tmp_path_factory):
    """A store with one version, in production."""
    root = tmp_path_factory.mktemp("one") / "store"
    publish(root)
    promote(root, 1)
    return root


def copy(template, root):
    root.parent.mkdir()
    shutil.copytree(template, root)


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
