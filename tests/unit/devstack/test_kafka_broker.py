from __future__ import annotations

from pathlib import Path

from devstack import kafka_broker
from devstack.kafka_broker import Node, properties, read_env

ONE = Node(1, 9001, 9002)
THREE = (ONE, Node(2, 9003, 9004), Node(3, 9005, 9006))
ENV = read_env(kafka_broker.ENV_FILE.read_text())
HOST_NAMES_AND_PATHS = {"node.id", "listeners", "advertised.listeners", "controller.quorum.voters", "log.dirs"}


def test_underscores_become_dots_hyphens_and_underscores_as_in_the_image() -> None:
    env = {"KAFKA_A_B": "1", "KAFKA_A__B": "2", "KAFKA_A___B": "3"}
    translated = properties(env, ONE, [ONE], Path("data"))
    assert (translated["a.b"], translated["a_b"], translated["a-b"]) == ("1", "2", "3")


def test_variables_of_the_image_itself_are_no_properties() -> None:
    assert "heap.opts" not in properties({"KAFKA_HEAP_OPTS": "-Xmx1g"}, ONE, [ONE], Path("data"))
    assert "path" not in properties({"PATH": "/bin"}, ONE, [ONE], Path("data"))


def test_only_addresses_and_folders_of_the_shared_file_are_replaced() -> None:
    translated = properties(ENV, ONE, [ONE], Path("data"))
    assert translated["log.dirs"] == "data"
    for variable, value in ENV.items():
        key = variable.removeprefix("KAFKA_").lower().replace("_", ".")
        if key not in HOST_NAMES_AND_PATHS | {"heap.opts"}:
            assert translated[key] == value


def test_every_listener_is_on_loopback_and_has_a_protocol() -> None:
    translated = properties(ENV, ONE, [ONE], Path("data"))
    assert translated["listeners"] == "PLAINTEXT://127.0.0.1:9001,CONTROLLER://127.0.0.1:9002"
    assert {"PLAINTEXT", "CONTROLLER"} <= {
        pair.split(":")[0] for pair in translated["listener.security.protocol.map"].split(",")
    }


def test_three_brokers_vote_together_and_keep_three_replicas() -> None:
    translated = properties(ENV, THREE[1], THREE, Path("data"))
    assert translated["node.id"] == "2"
    assert translated["controller.quorum.voters"] == "1@127.0.0.1:9002,2@127.0.0.1:9004,3@127.0.0.1:9006"
    assert translated["default.replication.factor"] == translated["offsets.topic.replication.factor"] == "3"
    assert translated["min.insync.replicas"] == "2"


def test_env_files_are_read_without_quotes_or_expansion() -> None:
    assert read_env('# no\n\nA=1\n B = "$A=2" \n') == {"A": "1", "B ": ' "$A=2"'}


def test_ids_are_22_characters_and_never_look_like_an_option() -> None:
    ids = {kafka_broker.new_id() for _ in range(200)}
    assert len(ids) == 200
    assert all(len(one) == 22 and not one.startswith("-") for one in ids)


def test_the_first_broker_has_the_plain_name() -> None:
    assert [kafka_broker.name(node) for node in THREE] == ["kafka", "kafka-2", "kafka-3"]
