"""Checkpoints on every kind of store: put, found again by later drivers, and removed."""

from dataclasses import replace

import pytest

from headrace.core.checkpoints import FOLDER, Checkpoints
from headrace.core.errors import UnstorableError
from headrace.core.identity import NOBODY, item_ids
from headrace.core.interfaces import GENERATION, Batch, Part, Positions, Receipt, Stage

PART = Part("data/x", "arrow", "int", 1, 1, 0)


def batch(run, number=0, positions=range(3)):
    stages = (Stage(4, "a/ü", "specs/x"), Stage(7, "b", "specs/y"))
    return Batch(run.run_id, number, run, stages, Positions.of(positions), b"")


def of(run, ids, number=0, positions=range(3)):
    return Checkpoints(batch(run, number, positions), list(positions), [ids, ids])


def receipt(node, positions):
    return Receipt(node, 0, 1, PART, Positions.of(positions), 1, 0.0, 1.0, 1.0)


def paths(run):
    return [each.path for each in run.list(FOLDER)]


def test_a_value_is_replaced_and_removed_with_its_commit(run):
    ids = item_ids([[5, 5, 6]])
    mine = of(run, ids)
    mine.save(0, 1, "first")
    mine.save(0, 1, ["second"])
    mine.save(0, 2, 3)
    mine.save(1, 1, "of the next stage")
    elsewhere = of(run, ids, number=1)  # a retry on another worker
    assert elsewhere.load(0, 0, "none") == "none", "equal inputs do not share"
    assert elsewhere.load(0, 1, None) == ["second"]
    assert elsewhere.load(1, 1, None) == "of the next stage"
    elsewhere.drop([receipt(4, [0, 2])])
    assert len(paths(run)) == 3, "item 2 was not seen by this one"
    elsewhere.drop([receipt(4, [1])])
    assert mine.load(0, 1, None) is None
    mine.drop([receipt(7, [1, 2])])
    assert paths(run) == [], "the chain's end is the end of all its stages"


def test_a_later_driver_finds_what_has_moved_by_its_id(run):
    of(run, item_ids([[10, 20, 30]])).save(0, 2, "of 30")
    later = of(run, item_ids([[30, 10, 20]]), number=GENERATION)
    assert later.load(0, 0, None) == "of 30"
    assert later.load(0, 2, None) is None, "20 has not saved"


def test_what_cannot_be_known_again_is_known_by_its_position_to_one_driver(run):
    of(run, NOBODY * 3).save(0, 1, "mine")
    assert of(run, NOBODY * 3, number=9).load(0, 1, None) == "mine"
    assert of(run, NOBODY * 3, number=GENERATION + 9).load(0, 1, None) is None


def test_nodes_are_told_apart_by_their_keys(local_run):
    ids = item_ids([[1, 2, 3]])
    of(local_run, ids).save(0, 0, "a")
    other = batch(local_run)
    renamed = replace(other, stages=(replace(other.stages[0], key="c"), other.stages[1]))
    assert Checkpoints(renamed, [0, 1, 2], [ids, ids]).load(0, 0, None) is None


def test_what_cannot_be_pickled_says_whose_it_is(local_run):
    with pytest.raises(UnstorableError, match=r"'a/ü' item 1.*generator"):
        of(local_run, NOBODY * 3).save(0, 1, (i for i in ()))
