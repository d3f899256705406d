import re
from pathlib import Path

import msgspec

from bench.generator import SOURCE, Latency, Load, LoadReport, Window, describe
from bench.methods import Answer, should_rate_limit


def read_fields(file: Path, struct: str) -> list[str]:
    found = re.search(rf"pub struct {struct} {{\n(.*?)\n}}", file.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return re.findall(r"^    pub (\w+):", found[1], re.MULTILINE)


def test_the_spec_has_exactly_the_fields_that_the_generator_reads() -> None:
    document = msgspec.json.decode(describe(should_rate_limit("search", [["user_id"]]), Load(), "127.0.0.1:1"))
    assert sorted(document) == sorted(read_fields(SOURCE / "src" / "spec.rs", "Spec"))
    assert sorted(document["answer"]) == sorted(read_fields(SOURCE / "src" / "spec.rs", "Answer"))
    assert sorted(Answer.__struct_fields__) == sorted(document["answer"])


def test_every_field_of_the_report_is_one_that_the_generator_writes() -> None:
    tally = SOURCE / "src" / "tally.rs"
    assert sorted(LoadReport.__struct_fields__) == sorted(read_fields(tally, "Report"))
    assert sorted(Latency.__struct_fields__) == sorted(read_fields(tally, "Latency"))
    assert sorted(Window.__struct_fields__) == sorted(read_fields(tally, "Window"))
