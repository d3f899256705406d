# The enforcer, the detector, the topics' command line and the example backend: one image, started by different commands.
# Builds with BuildKit and with the classic builder.

FROM python:3.12-slim AS packages
COPY requirements-run.lock .
# Wheels only: the image needs no compiler, and no package runs code of its own while it is installed.
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --require-hashes --only-binary :all: --requirement requirements-run.lock

FROM python:3.12-slim
# A new volume takes over the owner of the folder that it is mounted on.
RUN groupadd --gid 10001 ratchet \
    && useradd --uid 10001 --gid ratchet --home-dir /var/lib/ratchet --no-create-home --shell /usr/sbin/nologin ratchet \
    && install --directory --owner ratchet --group ratchet /var/lib/ratchet
COPY --from=packages /opt/venv /opt/venv
WORKDIR /opt/ratchet
COPY . .
# Compiled here, because at run time nothing can be written.
RUN /opt/venv/bin/python -m compileall -q .
# `proto` is a source root of its own: it holds the package `ratchet`.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/ratchet:/opt/ratchet/proto \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# By number, so that an orchestrator can see that it is not root.
USER 10001:10001
CMD ["python", "-m", "enforcer", "--help"]
