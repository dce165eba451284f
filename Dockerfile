# docker build --tag userproxy:0.1.0 .
#
# The image's user is root, as that of kube-proxy's image: kube-proxy's manifests name none, and must work with this image,
# too. The iptables driver writes rules, so it needs CAP_NET_ADMIN, for the legacy variant CAP_NET_RAW too, and for node
# ports below 1024 CAP_NET_BIND_SERVICE. The kernel gives added capabilities to root only, unless they are ambient, which
# neither Kubernetes nor `docker run --cap-add` makes them. It needs no other capability and no privileges:
#
#   docker run --network host --cap-drop ALL --cap-add NET_ADMIN --cap-add NET_RAW --read-only \
#     --security-opt no-new-privileges --volume /run/xtables.lock:/run/xtables.lock \
#     --volume /etc/services.d:/manifests:ro userproxy:0.1.0 run --manifests /manifests --portals iptables
#
# (examples/kubernetes does the same.) `run --portals none` needs none of it: add `--user 65532`. Nothing secret is built
# in: credentials are mounted when it runs.

FROM python:3.13-slim AS wheels
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY userproxy userproxy
# python-iptables comes as source only: the compiler for it stays behind in this stage.
RUN pip wheel --no-cache-dir --wheel-dir /wheels .

FROM python:3.13-slim
RUN apt-get update \
 && apt-get install --yes --no-install-recommends iptables nftables \
 && rm -rf /var/lib/apt/lists/*
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links=/wheels userproxy
ENTRYPOINT ["userproxy"]
CMD ["--help"]
