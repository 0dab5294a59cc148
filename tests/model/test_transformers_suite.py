"""How Transformers' common tests come out for our models, against the same tests of one of its own detectors."""

import pytest

from ..transformers_suite import counts, find_source

find_source()  # skips this file, with its reason, where there are none


@pytest.mark.slow
def test_none_fails_and_no_more_are_skipped_than_for_conditional_detr(capsys):
    assert counts.main() == 0, capsys.readouterr().out
