# What setup.sh and deploy.sh share; read by them, never run.
# shellcheck shell=sh

# A folder for the time that they take.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

#: The oldest Kubernetes 1 that the gateway works with (gateway/backends/kubernetes/checks.py), and the oldest
#: kubectl: one minor version off is what Kubernetes supports (https://kubernetes.io/releases/version-skew-policy/).
OLDEST_CLUSTER=33
OLDEST_KUBECTL=32

say() {
    printf '%s\n' "$*"
}

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

need() {
    command -v "$1" >/dev/null || fail "$1 is not on the PATH. $2"
}

# minor NAME: the minor version that `kubectl version --output=json` gives for clientVersion or serverVersion. A
# provider may write it as "33+".
minor() {
    sed -n "/\"$1\": {/,/}/s/.*\"minor\": \"\([0-9]*\).*/\1/p" "$work/version"
}

# check_kubectl: there is one, and a cluster that both the gateway and it can work with.
check_kubectl() {
    need kubectl "https://kubernetes.io/docs/tasks/tools/ says how to get it."
    need diff "It is in the package diffutils."
    kubectl version --output=json >"$work/version" 2>"$work/error" ||
        fail "The cluster does not answer. Is KUBECONFIG right? $(cat "$work/error")"
    [ "$(minor clientVersion)" -ge "$OLDEST_KUBECTL" ] ||
        fail "kubectl is of version 1.$(minor clientVersion); 1.$OLDEST_KUBECTL or later is needed."
    [ "$(minor serverVersion)" -ge "$OLDEST_CLUSTER" ] ||
        fail "The cluster is of version 1.$(minor serverVersion); 1.$OLDEST_CLUSTER or later is needed."
    say "Kubernetes 1.$(minor serverVersion), with kubectl 1.$(minor clientVersion)"
}

# render FOLDER: each object of the kustomization into a file of its own, in the order in which they can be made.
render() {
    kubectl kustomize "$1" >"$work/all" || fail "There is no kustomization in $1."
    mkdir "$work/objects"
    awk -v folder="$work/objects" 'BEGIN { n = 100 } /^---$/ { n++; next } { print > (folder "/" n ".yaml") }' "$work/all"
}

# names FILE: kind, name and, where it lies in one, namespace of the object.
names() {
    awk '/^[^ ]/ { inside = $1 == "metadata:" }
        /^kind:/ { kind = $2 }
        inside && /^  name:/ { name = $2 }
        inside && /^  namespace:/ { namespace = $2 }
        END { print kind, name, namespace }' "$1"
}

# namespace_of KIND NAME: where the kustomization has this object.
namespace_of() {
    found=$(for file in "$work"/objects/*; do names "$file"; done | sed -n "s/^$1 $2 //p")
    [ -n "$found" ] || fail "The kustomization has no $1 $2."
    say "$found"
}

# doctor EXECUTORS GATEWAY: what the gateway itself says of the cluster with these namespaces. The status is its.
doctor() {
    if ! command -v jupyter-gateway >/dev/null; then
        say "jupyter-gateway is not on the PATH, so its doctor has not looked at the cluster. Where it is installed:"
        say "  jupyter gateway doctor --backend=kubernetes"
        return
    fi
    say "The doctor's findings:"
    jupyter-gateway doctor --backend=kubernetes "--KubernetesBackend.namespace=$1" \
        "--KubernetesBackend.canary=$2/canary"
}
