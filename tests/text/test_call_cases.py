from tests.text.call_cases import check


def test_generated_calls_damage_and_chunkings() -> None:
    """Two thousand of the cases that `python -m tests.text.call_cases` makes any number of."""
    right, failures = check(2000, seed=5)
    assert not failures, failures[0]
    assert len(right) > 30
