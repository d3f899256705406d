"""Real Redis, Kafka and Envoy on one machine, without Docker, root, or anything installed by hand.

``python -m devstack up|down|status`` for a shell, ``devstack.stack.start`` for tests, ``devstack.process.Supervisor``
for whoever runs more processes beside them.
"""
