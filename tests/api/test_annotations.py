import pickle

import pytest

from headrace import allow_failure, quote, unmapped
from headrace.core.annotations import Annotation


@pytest.mark.parametrize("cls", [unmapped, allow_failure, quote])
def test_annotations_are_frozen_equal_by_value_and_pickle(cls: type[Annotation[list[int]]]):
    mark = cls([1, 2])
    assert mark.unwrap() == [1, 2]
    assert mark == cls([1, 2]) != cls([3])
    assert pickle.loads(pickle.dumps(mark)) == mark
    assert repr(mark) == f"{cls.__name__}([1, 2])"
    with pytest.raises(AttributeError):
        mark.value = [3]


def test_different_marks_differ():
    assert unmapped(1) != quote(1)
