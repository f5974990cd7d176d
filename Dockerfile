# The image of Starling. `make image` builds it, with docker or podman (buildah 1.28 or newer).
#
# A build behind a private index or an intercepting certificate gives pip's configuration as secrets, which stay in no layer:
#   --secret id=pip.conf,src=pip.conf --secret id=ca.pem,src=ca.pem     # with `cert = /run/secrets/ca.pem` in pip.conf
# Python is the newest for which every locked package has a wheel, on amd64 and arm64. A release gives BASE_IMAGE with its
# digest (`make release` does). The extra otel is in it, so that tracing only has to be turned on.
#
# `docker run -p 8000:8000 IMAGE` runs a trial, with keys that it generates and prints; `serve` alone wants yours.
ARG BASE_IMAGE=python:3.14-slim-trixie

FROM ${BASE_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_CONFIG_FILE=/run/secrets/pip.conf
WORKDIR /src
# pip and the build back-end live in an environment of their own and stay behind.
RUN python3 -m venv /opt/build && python3 -m venv --without-pip /opt/venv
COPY requirements/otel.txt requirements/build.txt requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip.conf,target=/run/secrets/pip.conf --mount=type=secret,id=ca.pem,target=/run/secrets/ca.pem \
    /opt/build/bin/pip install --require-hashes -r requirements/build.txt && \
    /opt/build/bin/pip --python /opt/venv/bin/python install --require-hashes --only-binary :all: --no-compile -r requirements/otel.txt
# Compiled here, since nothing can be written later; by content, since copies may change the times of files.
RUN /opt/venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib
COPY pyproject.toml README.md LICENSE ./
COPY app app
RUN /opt/build/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /wheels . && \
    /opt/build/bin/pip --python /opt/venv/bin/python install --no-index --no-deps --no-compile /wheels/*.whl && \
    /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib/python3*/site-packages/starling

FROM ${BASE_IMAGE}
# Nothing installs packages here, and nothing changes its user: pip goes, and files lose their setuid and setgid bits.
RUN groupadd --gid 10001 starling && \
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin starling && \
    rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/site-packages/* /usr/local/lib/python3*/ensurepip \
        /usr/lib/python3*/ensurepip /usr/share/python-wheels && \
    find / -xdev -type f -perm /6000 -exec chmod a-s {} +
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1
# The base comes without the standard library's bytecode: compile the part that the service imports. Its module
# `__main__` runs the command, which would end here.
RUN /opt/venv/bin/python -c "import encodings.idna, gunicorn.arbiter, importlib, multiprocessing.connection, pkgutil, urllib.request, uvloop, starling; \
    names = [module.name for module in pkgutil.walk_packages(starling.__path__, 'starling.')]; \
    [importlib.import_module(name) for name in names if name != 'starling.__main__']" && \
    STARLING_DEV=true starling check
ENV PYTHONDONTWRITEBYTECODE=1
# Clients, the kubelet and Prometheus connect from outside the container, in developer mode too.
ENV STARLING_HOST=0.0.0.0 STARLING_INTERNAL_HOST=0.0.0.0
ARG BASE_IMAGE
ARG BASE_DIGEST
ARG CREATED
ARG PROJECT_URL
ARG REVISION
ARG VERSION
LABEL org.opencontainers.image.title="Starling" \
      org.opencontainers.image.description="A real-time WebSocket service for Python teams" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.vendor="The Starling authors" \
      org.opencontainers.image.url="${PROJECT_URL}" \
      org.opencontainers.image.source="${PROJECT_URL}" \
      org.opencontainers.image.documentation="${PROJECT_URL}/blob/v${VERSION}/README.md" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}"
USER 10001:10001
EXPOSE 8000 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["/opt/venv/bin/python", "-c", "import http.client as h, os; c = h.HTTPConnection(os.environ.get('STARLING_INTERNAL_HOST', '127.0.0.1'), int(os.environ.get('STARLING_INTERNAL_PORT', '9090')), timeout=2); c.request('GET', '/livez'); exit(c.getresponse().status != 200)"]
ENTRYPOINT ["starling"]
CMD ["serve", "--trial"]
