# Two commands: `make serve` and `make test`. Both set up all they need; CONTRIBUTING.md says more.
PYTHON ?= python3
# Options of the gateway for `make serve`, for example ARGS=--port=9000.
ARGS ?=

.PHONY: serve test bench bench-cluster lock clean cluster-up cluster-down cluster-shell images

# The gateway with JupyterLab and the teaching kernel, on 127.0.0.1:8888 or the next free port.
serve:
	@exec $(PYTHON) -m tools.serve $(ARGS)

# Every check and every test, as this account and, if this is root, also as an ordinary one.
test:
	@exec $(PYTHON) -m tools.check

# Measures beside the bare kernel and other gateways; fails on a missed gate.
bench:
	@exec $(PYTHON) -m tools.bench

# Measures executors on a real Kubernetes beside bare pods and the embedded backend; fails on a missed gate.
bench-cluster:
	@exec $(PYTHON) -m tools.bench_cluster

# A real Kubernetes on this machine, until cluster-down; the shell has kubectl, helm and KUBECONFIG.
cluster-up cluster-down cluster-shell:
	@exec $(PYTHON) -m tools.cluster $(@:cluster-%=%)

# The images of k8s/images, as archives; `make images NAMES="relay executor"` builds only these.
images:
	@exec $(PYTHON) -m tools.images $(NAMES)

# Resolve every lock again; `make lock UPGRADE=--upgrade` takes newer versions.
lock:
	@exec $(PYTHON) -m tools.lock $(UPGRADE)

clean:
	rm -rf build dist .venv* .serve artifacts *.egg-info
