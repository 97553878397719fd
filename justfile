# Every command of this repository. Each is a thin wrapper: what it runs works without just.

set positional-arguments

# What there is
default:
    @just --list --unsorted

# Bring a real Kubernetes of several workers up on this machine
up *args:
    cargo sandbox up "$@"

# Take it away again, without a trace
down *args:
    cargo sandbox down "$@"

# What is up and what is not
status:
    cargo sandbox status

# Its kubectl
kubectl *args:
    cargo sandbox kubectl "$@"

# A 3×1 cluster on it, a key written and read through another node
demo *args:
    cargo sandbox demo "$@"

# Stories on it, under a write load: all of them, or those named
story *args:
    cargo sandbox test "$@"

# Everything that continuous integration runs
ci:
    cargo ci

# Unit tests, simulated lives and executor scenarios: no Kubernetes, no Valkey
test *args:
    cargo test --workspace "$@"

# Lives in the simulated world, compiled to be fast: more of them, or one with its log (SEED=… just lives)
lives count="2000":
    {{ if env("SEED", "") == "" { "LIVES=" + count } else { "LIFE=" + env("SEED") } }} cargo test --workspace --config 'profile.dev.package.valkey-cluster-operator.opt-level=2' --test worlds random_lives -- --nocapture

# The operator without one of its rules or guards at a time: who notices (LIVES=… for more random lives)
mutants:
    cargo test --workspace --config 'profile.dev.package.valkey-cluster-operator.opt-level=2' --test worlds mutants -- --ignored --nocapture

# What one plan costs, and what one look at 1,500 nodes does
bench:
    cargo bench --workspace --profile dev --config 'profile.dev.package.valkey-cluster-operator.opt-level=2' --bench planner
    NODES=1500 cargo test --workspace --config 'profile.dev.package.valkey-cluster-operator.opt-level=2' --test many_nodes -- --nocapture

# Rewrite the expected texts of all tests, to be read in the diff
bless *args:
    BLESS=1 UPDATE=1 cargo test --package valkey-cluster-operator "$@"

# Write what is generated: the CustomResourceDefinition and the installation
crds:
    cargo crdgen crd > crds/valkeyclusters.valkey.io.yaml
    cargo crdgen install > manifests/install.yaml

# Format
fmt:
    cargo fmt --all

# Formatting, lints, layers, and (where cargo-deny and actionlint are at hand) licences, sources and workflows
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- --deny warnings
    cargo test --quiet --package valkey-cluster-operator --test layers
    if cargo deny --version >/dev/null 2>&1; then cargo deny check bans licenses sources; else echo "cargo-deny is not installed: licences and sources were not checked"; fi
    if actionlint -version >/dev/null 2>&1; then actionlint; else echo "actionlint is not installed: the workflows were not checked"; fi

# Run the operator here, against the cluster of the current kubeconfig
run *args:
    cargo run --bin valkey-cluster-operator -- --no-lease --log-format text "$@"

# The bill of materials, in CycloneDX
sbom:
    cargo crdgen sbom

# The operator's image, with a container engine
image tag="valkey-cluster-operator:dev":
    docker build --tag {{ tag }} .
