import pytest
import typer

from bench.exactness import Hammered, judge, parse_pair


def seen(admitted: int, *, first_send_s: float = 0.0, first_answer_s: float = 0.1) -> Hammered:
    return Hammered(1000, admitted, 0, first_send_s, first_answer_s, 10.0, 10.1)


@pytest.mark.parametrize(("admitted", "is_met"), [(543, False), (544, True), (560, True), (561, False)])
def test_processes_are_judged_together_over_the_time_that_all_of_them_span(admitted: int, is_met: bool) -> None:
    late = seen(100, first_send_s=5.0, first_answer_s=5.1)
    early = seen(admitted - 100, first_send_s=-0.1, first_answer_s=0.1)
    assert judge([late, early]).is_met is is_met


@pytest.mark.parametrize("text", ["", "a:1", "a:1,", ",a:1", "a:1,b:2,c:3"])
def test_anything_but_two_addresses_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="two addresses"):
        parse_pair(text)


def test_two_addresses_are_split() -> None:
    assert parse_pair("a:1,b:2") == ("a:1", "b:2")
