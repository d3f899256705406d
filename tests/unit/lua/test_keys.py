"""Names of keys: no two subjects share one, and none leaves its hash tag."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from lua.keys import canonicalize_ip, find_slot, join_subjects, name_abuse, name_bucket, name_subject, name_verdict

kinds = st.sampled_from(["user", "ip", "key", "user2"])
values = st.one_of(st.text(max_size=40), st.text("{}:=&#% a\n/", max_size=12), st.text(min_size=200, max_size=400))


@given(one=st.tuples(kinds, values), other=st.tuples(kinds, values))
def test_different_subjects_have_different_names(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (name_subject(*one) == name_subject(*other)) == (one == other)


@given(kind=kinds, value=values)
def test_slot_is_the_one_that_a_cluster_finds_and_all_keys_of_a_subject_share_it(kind: str, value: str) -> None:
    subject = name_subject(kind, value)
    keys = (name_bucket(subject, "login", "per_user"), name_abuse(subject), name_verdict(subject, "ab12"))
    assert {find_slot(key) for key in keys} == {key_slot(key.encode()) for key in keys} == {key_slot(subject.encode())}


@given(kind=kinds, value=values)
def test_name_is_plain_and_holds_no_brace_and_no_separator(kind: str, value: str) -> None:
    name = name_subject(kind, value)
    assert name.isascii()
    assert name.isprintable()
    assert not set(name.removeprefix(f"{kind}=")) & set('{}&= "\\\n')
    assert len(name) <= len(kind) + 1 + 256


@given(kind=kinds, value=st.text(max_size=21))
def test_name_tells_the_value_while_its_encoded_form_fits(kind: str, value: str) -> None:
    assert unquote(name_subject(kind, value)) == f"{kind}={value}"


@given(value=st.text(st.characters(categories=["Cs"]), min_size=1, max_size=3))
def test_lone_surrogates_are_named_too(value: str) -> None:
    assert name_subject("user", value).isascii()


@given(
    one=st.lists(st.tuples(kinds, values), max_size=3, unique_by=lambda pair: pair[0]),
    other=st.lists(st.tuples(kinds, values), max_size=3, unique_by=lambda pair: pair[0]),
)
def test_joined_subjects_are_different_when_any_is(one: list[tuple[str, str]], other: list[tuple[str, str]]) -> None:
    names = [join_subjects([name_subject(*pair) for pair in pairs]) for pairs in (one, other)]
    assert (names[0] == names[1]) == (one == other)


@given(kind=kinds, value=values)
def test_every_key_of_a_subject_has_the_same_hash_tag(kind: str, value: str) -> None:
    subject = name_subject(kind, value)
    keys = [name_bucket(subject, "login", "per_user"), name_abuse(subject), name_verdict(subject, "ab12")]
    for key in keys:
        assert (key.count("{"), key.count("}")) == (1, 1)
        assert key[key.index("{") + 1 : key.index("}")] == subject


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("alice", "user=alice"),
        ("alice@example.org", "user=alice@example.org"),
        ("2001:db8::/64", "user=2001:db8::/64"),
        ("a b", "user=a%20b"),
        ("{}", "user=%7B%7D"),
        ("%7B", "user=%257B"),
        ("#x", "user=%23x"),
        ("a=b&c", "user=a%3Db%26c"),
        ("🦊", "user=%F0%9F%A6%8A"),
        ("a\nb", "user=a%0Ab"),
        ("", "user="),
        ("x" * 256, f"user={'x' * 256}"),
        ("x" * 257, "user=#15eb95a462ee20bd91a415ae2d4aed341288186ddaa2b37908f7d592f0c3f85f"),
    ],
)
def test_subject_is_named_as_documented(value: str, name: str) -> None:
    assert name_subject("user", value) == name


def test_keys_are_named_as_documented() -> None:
    subject = name_subject("user", "alice")
    assert name_bucket(subject, "login", "per_user") == "rate_limit:{user=alice}:login:per_user"
    pair = join_subjects([subject, "ip=::/64"])
    assert name_bucket(pair, "login", "pair") == "rate_limit:{user=alice}&ip=::/64:login:pair"
    assert find_slot(name_bucket(pair, "login", "pair")) == find_slot(name_abuse(subject))
    assert name_abuse(subject) == "abuse:{user=alice}"
    assert name_verdict(subject, "ab12") == "verdict:{user=alice}:ab12"
    assert join_subjects([]) == "global"
    assert join_subjects([subject, "ip=::/64"]) == "user=alice&ip=::/64"


def test_tiers_and_shadow_mode_have_buckets_of_their_own() -> None:
    keys = [
        name_bucket("user=alice", "login", limit, tier, is_shadow=is_shadow)
        for limit in ("shadow", "tier", "per_user")
        for tier in ("", "shadow", "tier", "gold")
        for is_shadow in (False, True)
    ]
    assert keys[-1] == "rate_limit:{user=alice}:login:per_user:tier=gold:shadow"
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:DB8:0:1:0:0:0:7", "2001:db8:0:1::/64"),
        ("2001:db8:0:1:ffff::1", "2001:db8:0:1::/64"),
        ("[2001:db8::1]", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("::1", "::/64"),
        ("203.0.113.007", "203.0.113.007"),
        ("203.0.113.7:443", "203.0.113.7:443"),
        ("unknown", "unknown"),
        ("", ""),
    ],
)
def test_address_is_written_in_one_way(written: str, canonical: str) -> None:
    assert canonicalize_ip(written) == canonical
