from bench.tables import Row, measure_bucket_bytes, write_run, write_table
from tests.unit.bench.samples import make_measurement


def test_the_table_has_the_median_of_the_rounds() -> None:
    row = Row("ratchet", "allowed", (make_measurement(30.0), make_measurement(90.0), make_measurement(32.5)))
    line = write_table([row]).splitlines()[-1]
    assert line.startswith("| ratchet | allowed | 100 | 32.5 |")


def test_what_was_not_measured_stays_empty_in_the_table_and_is_left_out_of_a_run() -> None:
    row = Row("ratchet", "allowed", (make_measurement(30.0),))
    cells = [cell.strip() for cell in write_table([row]).splitlines()[-1].split("|")]
    titles = [cell.strip() for cell in write_table([row]).splitlines()[0].split("|")]
    assert cells[titles.index("Redis µs")] == ""
    assert "Redis" not in write_run(make_measurement(30.0))


def test_a_run_names_its_errors() -> None:
    assert write_run(make_measurement(30.0)).endswith("status 14: 2")


def test_the_size_of_a_bucket_is_told_only_where_most_decisions_made_one() -> None:
    assert measure_bucket_bytes(make_measurement(30.0, new_keys=1000, new_bytes=150_000)) == 150.0
    assert measure_bucket_bytes(make_measurement(30.0, new_keys=10, new_bytes=150_000)) is None
    assert measure_bucket_bytes(make_measurement(30.0)) is None
