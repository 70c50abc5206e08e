#!/bin/sh
# Makes all of k8s/manifests in the cluster that KUBECONFIG names: the namespaces, the gateway's ServiceAccount and
# what it may do, the policies, the quota and the canary. Says what became of each object; a second time,
# nothing changes. docs/kubernetes.md says who owns what.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=k8s/lib.sh
. "$here/lib.sh"

usage() {
    cat <<END
Usage: setup.sh [--dry-run] [--for-chart] [--kustomization=FOLDER]

  --dry-run               say what would be made or changed, and change nothing
  --for-chart             leave to the chart what it makes too; this is what deploy.sh asks for
  --kustomization=FOLDER  another than k8s/manifests, such as k8s/examples/other-names
END
}

dry_run=false
for_chart=false
folder=$here/manifests
for word; do
    case $word in
        --dry-run) dry_run=true ;;
        --for-chart) for_chart=true ;;
        --kustomization=*) folder=${word#*=} ;;
        --help) usage; exit ;;
        *) usage >&2; fail "There is no option $word." ;;
    esac
done

# The chart makes it too: its marks are on it (manifests/gateway/service-accounts.yaml).
is_charts() {
    grep -q '^    meta\.helm\.sh/release-name:' "$1"
}

# A release has it: only the chart gives this label.
is_releases() {
    [ -n "$(kubectl get --filename="$1" --ignore-not-found --output='jsonpath={.metadata.labels.helm\.sh/chart}')" ]
}

# server_side COMMAND FILE: by kubectl apply or diff. What the chart may take over is written in Helm's name, or
# its release could not change a field without force (https://kubernetes.io/docs/reference/using-api/server-side-apply/).
server_side() {
    manager=integr8scode-setup
    if is_charts "$2"; then manager=helm; fi
    kubectl "$1" --server-side --force-conflicts --field-manager="$manager" --filename="$2"
}

# put FILE: have the object there as the file says, and tell what that took.
put() {
    read -r kind name namespace <<END
$(names "$1")
END
    what="$kind ${namespace:+$namespace/}$name"
    if is_charts "$1" && { $for_chart || is_releases "$1"; }; then
        say "left to the chart $what"
        return
    fi
    if [ -z "$(kubectl get --filename="$1" --ignore-not-found --output=name)" ]; then
        became=created
    else
        status=0
        server_side diff "$1" >"$work/diff" 2>"$work/error" || status=$?
        case $status in
            0) say "unchanged         $what"; return ;;
            1) became=changed ;;
            *) fail "$what cannot be compared: $(cat "$work/error")" ;;
        esac
    fi
    if $dry_run; then
        say "to be $(printf '%-11s' "$became") $what"
        if [ "$became" = changed ]; then sed -n 's/^[-+ ]/    &/p' "$work/diff"; fi
        return
    fi
    server_side apply "$1" >"$work/output" 2>&1 || fail "$what cannot be $became: $(cat "$work/output")"
    say "$(printf '%-17s' "$became") $what"
}

# The API server goes by an admission policy some time after it was made. A way into a pod, also into one that there
# is not, is refused by ours and by nothing else.
wait_for_admission() {
    tries=60
    until kubectl get --raw "/api/v1/namespaces/$1/pods/none/proxy" 2>&1 | grep -q 'the only way'; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "The admission policies of the namespace $1 are not in force after a minute."
        sleep 1
    done
}

check_kubectl
render "$folder"
executors=$(namespace_of NetworkPolicy executor-deny-all)
gateway=$(namespace_of Deployment canary)

for file in "$work"/objects/*; do
    put "$file"
done
if $dry_run; then
    say "Nothing was changed."
    exit
fi
wait_for_admission "$executors"
if $for_chart; then exit; fi
kubectl rollout status deployment/canary --namespace="$gateway" --timeout=120s ||
    fail "The canary does not start. See: kubectl --namespace=$gateway describe pods"
doctor "$executors" "$gateway"
