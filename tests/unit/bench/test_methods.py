from bench.methods import ID_BYTES, Method, check, check_batch, should_rate_limit
from ratchet.envoy import rls_pb2
from ratchet.v1 import enforcer_pb2


def fill(method: Method, user_ids: list[str]) -> bytes:
    body = bytearray.fromhex(method.body_hex)
    for user_id, holes in zip(user_ids, method.holes, strict=True):
        for hole in holes:
            body[hole : hole + ID_BYTES] = user_id.encode()
    return bytes(body)


def test_a_filled_rate_limit_request_asks_for_that_user_in_every_descriptor() -> None:
    user_id = "a" * ID_BYTES
    method = should_rate_limit("bench_three", [["user_id"], ["device", "session"]])
    request = rls_pb2.RateLimitRequest.FromString(fill(method, [user_id]))
    assert request.domain == "bench_three"
    entries = [[(entry.key, entry.value) for entry in one.entries] for one in request.descriptors]
    assert entries == [[("user_id", user_id)], [("device", user_id), ("session", user_id)]]
    assert method.decisions_per_call == 1


def test_a_filled_check_carries_the_user_in_its_attributes_too() -> None:
    user_id = "b" * ID_BYTES
    request = enforcer_pb2.CheckRequest.FromString(fill(check("search", ["device"]), [user_id]))
    assert (request.user_id, request.action, dict(request.attributes)) == (user_id, "search", {"device": user_id})


def test_each_check_of_a_batch_is_for_a_user_of_its_own() -> None:
    user_ids = [f"{number:036d}" for number in range(100)]
    method = check_batch("search", 100)
    request = enforcer_pb2.CheckBatchRequest.FromString(fill(method, user_ids))
    assert [one.user_id for one in request.checks] == user_ids
    assert method.decisions_per_call == 100


def test_answers_are_read_by_the_numbers_of_the_contract() -> None:
    answer = check_batch("search", 2).answer
    items = enforcer_pb2.CheckBatchResponse.DESCRIPTOR.fields_by_number[answer.item_field]
    fields = enforcer_pb2.CheckResponse.DESCRIPTOR.fields_by_number
    assert items.name == "results"
    names = [fields[number].name for number in (answer.code_field, answer.degraded_field, answer.cached_field)]
    assert names == ["outcome", "degraded", "cached"]
    outer = rls_pb2.RateLimitResponse.DESCRIPTOR.fields_by_number
    mine = should_rate_limit("search", [["user_id"]]).answer
    assert [outer[number].name for number in (mine.code_field, mine.degraded_field)] == ["overall_code", "dynamic_metadata"]
