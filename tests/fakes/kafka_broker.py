"""A broker that speaks the Kafka protocol on real TCP ports: librdkafka's own mock cluster, as a process of its own.

    python tests/fakes/kafka_broker.py TOPIC

prints its address, then obeys lines on standard input (down, up) and ends when that closes. It keeps 5 MiB per partition and
knows no SASL. Made through ctypes on the library inside confluent_kafka, which offers no Python face for it.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path


def library() -> ctypes.CDLL:
    """The librdkafka that confluent_kafka brought along."""
    import confluent_kafka

    package = Path(confluent_kafka.__file__).parent
    places = [*package.parent.glob("confluent_kafka.libs/*rdkafka*"), *package.glob("**/*rdkafka*")]
    found = sorted(path for path in places if ".so" in path.name or path.suffix in {".dll", ".dylib"})
    if not found:
        raise SystemExit("librdkafka is not beside confluent_kafka")
    return ctypes.CDLL(str(found[0]))


def main() -> None:
    """Serve until standard input closes."""
    topic = sys.argv[1].encode()
    lib = library()
    pointer = ctypes.c_void_p
    # Without explicit types ctypes cuts 64-bit pointers in half.
    for name, result, arguments in (
        ("rd_kafka_conf_new", pointer, []),
        ("rd_kafka_new", pointer, [ctypes.c_int, pointer, ctypes.c_char_p, ctypes.c_size_t]),
        ("rd_kafka_mock_cluster_new", pointer, [pointer, ctypes.c_int]),
        ("rd_kafka_mock_topic_create", ctypes.c_int, [pointer, ctypes.c_char_p, ctypes.c_int, ctypes.c_int]),
        ("rd_kafka_mock_cluster_bootstraps", ctypes.c_char_p, [pointer]),
        ("rd_kafka_mock_group_initial_rebalance_delay_ms", None, [pointer, ctypes.c_int32]),
        ("rd_kafka_mock_broker_set_down", ctypes.c_int, [pointer, ctypes.c_int32]),
        ("rd_kafka_mock_broker_set_up", ctypes.c_int, [pointer, ctypes.c_int32]),
    ):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    error = ctypes.create_string_buffer(512)
    client = lib.rd_kafka_new(0, lib.rd_kafka_conf_new(), error, len(error))
    if not client:
        raise SystemExit(error.value.decode())
    cluster = lib.rd_kafka_mock_cluster_new(client, 1)
    lib.rd_kafka_mock_topic_create(cluster, topic, 1, 1)
    lib.rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 0)
    sys.stdout.write(lib.rd_kafka_mock_cluster_bootstraps(cluster).decode() + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        if line.strip() == "down":
            lib.rd_kafka_mock_broker_set_down(cluster, 1)
        elif line.strip() == "up":
            lib.rd_kafka_mock_broker_set_up(cluster, 1)


if __name__ == "__main__":
    main()
