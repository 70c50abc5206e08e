#!/bin/sh
# Deploys the gateway by its chart into the cluster that KUBECONFIG names. The namespaces, the policies and all
# else that the chart does not manage are made before Helm runs, by setup.sh, so that nothing runs without them. A
# second time, what has changed is brought up to date.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=k8s/lib.sh
. "$here/lib.sh"

usage() {
    cat <<END
Usage: deploy.sh [--dry-run] [--kustomization=FOLDER] [OPTION OF HELM]...

  --dry-run               say what would be made or changed, and change nothing
  --kustomization=FOLDER  another than k8s/manifests, such as k8s/examples/other-names

Options of \`helm upgrade --install\` follow, such as --values=FILE or --set=images.registry=registry.example/kernels.
END
}

dry_run=false
folder=$here/manifests
while [ $# -gt 0 ]; do
    case $1 in
        --dry-run) dry_run=true ;;
        --kustomization=*) folder=${1#*=} ;;
        --help) usage; exit ;;
        *) break ;;
    esac
    shift
done

need helm "https://helm.sh/docs/intro/install/ says how to get it."
need kubectl "https://kubernetes.io/docs/tasks/tools/ says how to get it."
render "$folder"
executors=$(namespace_of NetworkPolicy executor-deny-all)
gateway=$(namespace_of Deployment canary)

setup() {
    "$here/setup.sh" --for-chart "--kustomization=$folder" "$@"
}

release() {
    helm upgrade --install integr8scode "$here/helm/integr8scode" --namespace="$gateway" \
        --set="executors.namespace=$executors" "$@"
}

# The kubelet keeps the end of what a gateway has said that ended with an error.
last_words() {
    container='.items[*].status.containerStatuses[*]'
    kubectl get pods --namespace="$gateway" --selector=app=integr8s,component=gateway \
        --output="jsonpath={$container.state.terminated.message}{$container.lastState.terminated.message}" | tail -n 3
}

if $dry_run; then
    setup --dry-run
    # Helm asks the server about namespaces that are not there yet, where it may ask it at all.
    release --dry-run=client --hide-secret "$@"
    exit
fi
setup
if ! release --wait --timeout=5m "$@"; then
    say "The gateway's last words:"
    last_words
    fail "The chart is not well deployed. See: kubectl --namespace=$gateway describe pods"
fi
doctor "$executors" "$gateway"
