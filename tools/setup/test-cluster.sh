#!/bin/sh
# Runs tests/chart/test_cluster.py (given as the command) on the cluster of KUBECONFIG, with STARLING_IMAGE as the image.
# Without KUBECONFIG it makes a cluster with kind, k3d or minikube, whichever is installed, and deletes it at the end.
set -eu

name=starling-test

lacks() {
    echo "make test-cluster: $1" >&2
    exit 1
}

command -v kubectl >/dev/null 2>&1 || lacks "kubectl is not installed"
if [ -n "${KUBECONFIG:-}" ]; then
    [ -n "${STARLING_IMAGE:-}" ] || lacks "STARLING_IMAGE must name an image that the cluster of KUBECONFIG can pull, as registry/starling:tag"
    exec "$@"
fi

tool=
for each in kind k3d minikube; do
    if command -v "$each" >/dev/null 2>&1; then
        tool=$each
        break
    fi
done
[ -n "$tool" ] || lacks "no cluster: set KUBECONFIG and STARLING_IMAGE, or install kind, k3d or minikube"

directory=$(mktemp -d)
export KUBECONFIG="$directory/kubeconfig"
export STARLING_IMAGE="${STARLING_IMAGE:-localhost/starling:test}"
remove() {
    case $tool in
    kind) kind delete cluster --name "$name" ;;
    k3d) k3d cluster delete "$name" ;;
    minikube) minikube delete --profile "$name" ;;
    esac
    rm -rf "$directory"
}
trap remove EXIT

make image IMAGE="$STARLING_IMAGE"
"${ENGINE:-docker}" save --output "$directory/image.tar" "$STARLING_IMAGE"
case $tool in
kind)
    kind create cluster --name "$name" --kubeconfig "$KUBECONFIG" --wait 5m
    kind load image-archive --name "$name" "$directory/image.tar"
    ;;
k3d)
    k3d cluster create "$name" --wait --kubeconfig-update-default=false
    k3d kubeconfig get "$name" >"$KUBECONFIG"
    k3d image import --cluster "$name" "$directory/image.tar"
    ;;
minikube)
    minikube start --profile "$name" --wait all
    minikube image load --profile "$name" "$directory/image.tar"
    ;;
esac
"$@"
