"""Kafka, PostgreSQL and the autoscaler know the code's topics, consumer groups and roles."""

import copy

from deploy.kubernetes import manifests
from deploy.roles import ROLES, SERVICES
from deploy.security.acls import USERS, rules
from deploy.stack import postgres
from dotmac_contracts.topics import ALL
from tests.subscriptions import subscriptions
from tests.unit.deploy.kubernetes.rendered import Resource, kind


def test_workers_are_scaled_by_the_lag_of_their_own_consumer_groups(production: list[Resource]) -> None:
    scales = kind(production, "ScaledObject")
    config = {key: value for item in kind(production, "ConfigMap").values() for key, value in item["data"].items()}
    authentications = kind(production, "TriggerAuthentication").keys()
    partitions = {topic.name: topic.partitions for topic in ALL}
    for service, subscribed in subscriptions().items():
        expected = {(item.consumer, topic.name) for item in subscribed for topic in item.topics}
        scale = scales.pop(f"{service}-worker")["spec"]
        assert scale["scaleTargetRef"]["name"] in kind(production, "Deployment")
        triggers = [trigger["metadata"] for trigger in scale["triggers"]]
        assert {(trigger["consumerGroup"], trigger["topic"]) for trigger in triggers} == expected
        assert len(triggers) == len(expected)
        assert {trigger["authenticationRef"]["name"] for trigger in scale["triggers"]} <= authentications
        assert {(trigger["tls"], trigger["sasl"]) for trigger in triggers} == {("enable", "scram_sha512")}
        assert all(trigger["bootstrapServersFromEnv"] in config for trigger in triggers)
        assert scale["maxReplicaCount"] == max(partitions[topic] for _, topic in expected)
    assert scales == {}


def test_the_topics_are_those_of_the_contracts(resources: list[Resource], overlay: str) -> None:
    (cluster,) = kind(resources, "Kafka").values()
    topics = kind(resources, "KafkaTopic")
    assert topics.keys() == {topic.name for topic in ALL}
    brokers = sum(pool["spec"]["replicas"] for pool in kind(resources, "KafkaNodePool").values())
    for topic in ALL:
        resource = topics[topic.name]
        assert resource["metadata"]["labels"]["strimzi.io/cluster"] == cluster["metadata"]["name"]
        assert resource["spec"]["partitions"] == topic.partitions
        assert resource["spec"]["config"] == topic.configuration
        assert resource["spec"]["replicas"] == brokers
    config = cluster["spec"]["kafka"]["config"]
    assert config["auto.create.topics.enable"] is False
    assert config["min.insync.replicas"] == {"development": 1, "production": 2}[overlay]


def test_kafka_lets_each_process_do_what_its_rules_say_and_nobody_in_without_a_password(
    resources: list[Resource],
) -> None:
    (cluster,) = kind(resources, "Kafka").values()
    kafka = cluster["spec"]["kafka"]
    assert kafka["authorization"] == {"type": "simple"}
    assert [(it["tls"], it["authentication"]["type"]) for it in kafka["listeners"]] == [(True, "scram-sha-512")]
    users = kind(resources, "KafkaUser")
    assert users.keys() == {*USERS, "keda", "recovery"}
    allowed = {
        (name, access["resource"]["type"], access["resource"]["name"], operation)
        for name, user in users.items()
        for access in user["spec"]["authorization"]["acls"]
        for operation in access["operations"]
    }
    of_processes = {rule for rule in allowed if rule[0] in USERS}
    assert of_processes == {
        (rule.user, rule.resource.name.lower(), rule.name, rule.operation.name.title()) for rule in rules()
    }
    assert {operation for name, _, _, operation in allowed if name == "keda"} == {"Describe"}
    looked_at = {(kind_, thing) for name, kind_, thing, _ in allowed if name == "keda"}
    assert {(kind_, thing) for name, kind_, thing, operation in of_processes if operation == "Read"} <= looked_at
    emptied = {(thing, operation) for name, _, thing, operation in allowed if name == "recovery"}
    assert emptied == {(topic.name, operation) for topic in ALL for operation in ("Delete", "Write")}


def test_databases_and_roles_are_those_of_the_services(resources: list[Resource]) -> None:
    (cluster,) = kind(resources, "Cluster").values()
    databases = {item["spec"]["name"]: item["spec"] for item in kind(resources, "Database").values()}
    assert databases.keys() == {f"dotmac_{service}" for service in SERVICES}
    for service in SERVICES:
        assert databases[f"dotmac_{service}"]["owner"] == f"{service}_owner"
        assert databases[f"dotmac_{service}"]["cluster"]["name"] == cluster["metadata"]["name"]
    managed = {role["name"]: role for role in cluster["spec"]["managed"]["roles"]}
    assert managed.keys() == {f"{service}_{role}" for service in SERVICES for role in ROLES}
    for service in SERVICES:
        for role in ROLES:
            found = managed[f"{service}_{role}"]
            assert found["passwordSecret"]["name"] == f"{service}-database-{role}"
            assert not found.keys() & {"superuser", "bypassrls", "createdb", "createrole", "replication"}


def test_the_server_is_set_up_for_a_queue_table_as_the_local_one_is(resources: list[Resource]) -> None:
    (cluster,) = kind(resources, "Cluster").values()
    parameters = cluster["spec"]["postgresql"]["parameters"]
    for name in ("autovacuum_naptime", "autovacuum_vacuum_cost_delay"):
        assert parameters[name] == postgres._SETTINGS[name]


def test_a_misspelt_field_of_a_custom_resource_or_a_pod_is_refused(production: list[Resource]) -> None:
    assert manifests.problems(production, "production") == []
    for name, change in {
        "KafkaTopic": lambda it: it["spec"].update(partition=3),
        "ScaledObject": lambda it: it["spec"]["triggers"][0]["metadata"].update(consumergroup="x"),
        "Cluster": lambda it: it["spec"]["postgresql"].update(synchronised={}),
        "Deployment": lambda it: it["spec"]["template"]["spec"].update(terminationGraceSeconds=3),
        "NetworkPolicy": lambda it: it["spec"].update(policyType=["Egress"]),
    }.items():
        changed = copy.deepcopy(next(iter(kind(production, name).values())))
        change(changed)
        assert manifests.problems([changed], "changed"), name
    assert manifests.problems([{"apiVersion": "example/v1", "kind": "Unknown", "metadata": {"name": "x"}}], "unknown")
